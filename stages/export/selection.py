"""Which samples of a run a person rejected: `kept.json` in the run's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from latent_common.artifacts import read_json, write_json
from latent_common.errors import UserError

SELECTION = "kept.json"
"""``{"rejected": [3, 17]}``: rows of ``augmented.npz`` from 0, in order. All other samples are kept."""


def write_rejected(run: Path, rejected: Iterable[int]) -> None:
    """Write that a person rejected these samples of the run in the folder ``run``, and keeps all others.

    :param rejected: rows of ``augmented.npz``, from 0, in any order.
    """
    write_json(run / SELECTION, {"rejected": sorted({int(row) for row in rejected})})


def read_rejected(run: Path) -> frozenset[int]:
    """The rows of ``augmented.npz`` that a person rejected; none if nobody chose.

    :raises UserError: if the file is damaged.
    """
    path = run / SELECTION
    if not path.is_file():
        return frozenset()
    content = read_json(path)
    rejected = content.get("rejected") if isinstance(content, dict) else None
    if not isinstance(rejected, list) or not all(type(row) is int and row >= 0 for row in rejected):
        raise UserError(
            f'{path} should list rejected samples as {{"rejected": [3, 17]}}, rows of augmented.npz from 0: '
            "correct it, or delete it to keep all"
        )
    return frozenset(rejected)
