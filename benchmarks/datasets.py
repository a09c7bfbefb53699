"""The data sets of comparisons, and where they lie below ``--data``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError


@dataclass(frozen=True)
class Data:
    """A data set: the keys that ask for it, and where it lies below ``--data``."""

    keys: tuple[str, ...]
    needs: str | None = None
    """The folder that must be there; None where nothing is needed."""
    root: str | None = None
    """The folder that ``data_root`` names; None leaves it alone."""

    def keys_below(self, folder: Path) -> list[str]:
        """All keys, with where it lies."""
        return [*self.keys, *([] if self.root is None else [f"data_root={folder / self.root}"])]


def digit(normal: int, *keys: str) -> Data:
    """MNIST with one digit as normal and all others as anomalies."""
    return Data(("dataset=mnist", f"dataset.normal={normal}", *keys), "mnist", ".")


DATASETS: dict[str, Data] = {
    "phantom": Data(("dataset=phantom",)),
    "bottle": Data(("dataset=mvtec", "dataset.category=bottle"), "mvtec/bottle", "mvtec"),
    "magnetic_tile": Data(
        ("dataset=folder", "dataset.root=folder/magnetic_tile"), "folder/magnetic_tile", "."
    ),
    "kolektor": Data(("dataset=folder", "dataset.root=folder/kolektor"), "folder/kolektor", "."),
    "busi": Data(("dataset=bmad_custom", "dataset.name=BUSI"), "bmad/BUSI", "bmad"),
}


def check_found(datasets: Iterable[str], known: Mapping[str, Data], folder: Path) -> None:
    """Complain about a data set that isn't there, before hours are spent on another."""
    for name in datasets:
        needs = known[name].needs
        if needs is not None and not (folder / needs).exists():
            raise UserError(f"{name}: {folder / needs} is missing; --data names the folder above it")
