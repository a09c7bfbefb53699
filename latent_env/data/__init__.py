"""Data sets: loading, checking and making the images that everything else works on."""

from latent_env.data.bmad import load_bmad_dataset
from latent_env.data.dataset import Dataset, Split, check_size
from latent_env.data.digits import load_digits_dataset
from latent_env.data.folder import load_folder_dataset
from latent_env.data.phantom import make_phantom_dataset

__all__ = [
    "Dataset",
    "Split",
    "check_size",
    "load_bmad_dataset",
    "load_digits_dataset",
    "load_folder_dataset",
    "make_phantom_dataset",
]
