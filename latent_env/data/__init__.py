"""Data sets: finding, checking and preparing the images that everything else works on."""

from latent_env.data.builtin.digits import load_digits_dataset
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.data.dataset import Dataset, Split, check_size, check_track
from latent_env.data.layouts.bmad import bmad_source
from latent_env.data.layouts.cifar10 import cifar10_source
from latent_env.data.layouts.folder import Parts, folder_source
from latent_env.data.layouts.mnist import mnist_source
from latent_env.data.layouts.mvtec import GOODSAD, MVTEC, TEXTURES, collection_source
from latent_env.data.layouts.npz import npz_source
from latent_env.data.layouts.visa import visa_source
from latent_env.data.prepared.preparation import prepare, prepare_textures
from latent_env.data.samples import Problems, Source
from latent_env.data.splitting import Splitting

__all__ = [
    "GOODSAD",
    "MVTEC",
    "TEXTURES",
    "Dataset",
    "Parts",
    "Problems",
    "Source",
    "Split",
    "Splitting",
    "bmad_source",
    "check_size",
    "check_track",
    "cifar10_source",
    "collection_source",
    "folder_source",
    "load_digits_dataset",
    "make_phantom_dataset",
    "mnist_source",
    "npz_source",
    "prepare",
    "prepare_textures",
    "visa_source",
]
