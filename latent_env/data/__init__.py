"""Data sets: finding, checking and preparing the images that everything else works on.

A name is imported when it is first used: whoever decodes a single image needs nothing of the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "load_digits_dataset": "latent_env.data.builtin.digits",
    "make_phantom_dataset": "latent_env.data.builtin.phantom",
    "Dataset": "latent_env.data.dataset",
    "Split": "latent_env.data.dataset",
    "check_size": "latent_env.data.dataset",
    "check_track": "latent_env.data.dataset",
    "bmad_source": "latent_env.data.layouts.bmad",
    "cifar10_source": "latent_env.data.layouts.cifar10",
    "Parts": "latent_env.data.layouts.folder",
    "folder_source": "latent_env.data.layouts.folder",
    "mnist_source": "latent_env.data.layouts.mnist",
    "GOODSAD": "latent_env.data.layouts.mvtec",
    "MVTEC": "latent_env.data.layouts.mvtec",
    "TEXTURES": "latent_env.data.layouts.mvtec",
    "collection_source": "latent_env.data.layouts.mvtec",
    "npz_source": "latent_env.data.layouts.npz",
    "visa_source": "latent_env.data.layouts.visa",
    "prepare": "latent_env.data.prepared.preparation",
    "prepare_textures": "latent_env.data.prepared.preparation",
    "Problems": "latent_env.data.samples",
    "Source": "latent_env.data.samples",
    "Splitting": "latent_env.data.splitting",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
