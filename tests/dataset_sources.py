"""The data sets that the tests write in small, found as the scripts find them, with plain settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latent_env.data import (
    GOODSAD,
    MVTEC,
    Parts,
    Problems,
    Source,
    Splitting,
    bmad_source,
    cifar10_source,
    collection_source,
    folder_source,
    mnist_source,
    npz_source,
    visa_source,
)


def bmad(data: Path, name: str = "bmad_liver") -> Source:
    return bmad_source(data, name, Splitting(), Problems())


def mvtec(data: Path, category: str = "bottle") -> Source:
    return collection_source(MVTEC, data, category, Splitting(), Problems())


def goodsad(data: Path, category: str = "food_box") -> Source:
    return collection_source(GOODSAD, data, category, Splitting(), Problems())


def visa(data: Path, category: str = "candle") -> Source:
    return visa_source(data, category, Splitting(), Problems())


def mnist(data: Path, normal: int | Sequence[int] = 3) -> Source:
    return mnist_source(data, normal, Splitting())


def cifar10(data: Path, normal: int | Sequence[int] = 0) -> Source:
    return cifar10_source(data, normal, Splitting())


def folder(root: Path, **settings: Any) -> Source:
    return folder_source(root, "", Parts(), Splitting(**settings), Problems())


def parts(root: Path, **named: Any) -> Source:
    return folder_source(root, "", Parts(**named), Splitting(), Problems())


def npz(root: Path, trust_pickle: bool = False) -> Source:
    return npz_source(root, "", Splitting(), Problems(), trust_pickle)
