"""Verdicts as rows: printed, or written to `predictions.csv` and `predictions.jsonl`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latent_common.errors import UserError
from latent_common.files import MOST_JSON
from latent_env.prediction.result import Prediction

CSV, JSONL = "predictions.csv", "predictions.jsonl"
COLUMNS = (
    "path",
    "score",
    "p_value",
    "verdict",
    "area",
    "left",
    "top",
    "width",
    "height",
    "picture",
    "error",
)
ANOMALY, NORMAL, BROKEN = "anomaly", "normal", "broken"

Row = Mapping[str, Any]


def row_of(prediction: Prediction, picture: str | None) -> Row:
    """What the tables say of an image; ``picture`` is the name of its overlay and of its mask."""
    found = prediction.finding
    return {
        **dict.fromkeys(COLUMNS),
        "path": prediction.name,
        "score": round(prediction.score, 6),
        "p_value": round(prediction.p_value, 6),
        "verdict": ANOMALY if prediction.is_anomaly else NORMAL,
        **({} if found is None else {**vars(found), "area": round(found.area, 6)}),
        "picture": picture,
    }


def broken_row(path: Path, error: str) -> Row:
    """What the tables say of a file that can't be read."""
    return {**dict.fromkeys(COLUMNS), "path": str(path), "verdict": BROKEN, "error": error}


def line_of(row: Row) -> str:
    """A row for the terminal."""
    if row["verdict"] == BROKEN:
        return f"{BROKEN:8} {row['path']}"
    place = "" if row["area"] is None else f"  {row['area']:.2%} at {row['left']},{row['top']}"
    return f"{row['verdict']:8} {row['score']:.3f}  p {row['p_value']:.4f}  {row['path']}{place}"


class Tables:
    """Both files of a folder, row by row.

    :param lasting: whether rows are added to what the files hold, and are seen at once, as is right for what
        never ends. Else the files appear when all rows are in them.
    """

    def __init__(self, folder: Path, lasting: bool) -> None:
        self.folder, self.lasting = folder, lasting
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new = not (lasting and (folder / CSV).is_file())
            mode = "a" if lasting else "w"
            self._csv = self._path(CSV).open(mode, encoding="utf-8", errors="backslashreplace", newline="")
            self._jsonl = self._path(JSONL).open(mode, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {folder}: can't write there ({error.strerror})") from error
        self._rows = csv.DictWriter(self._csv, COLUMNS)
        if new:
            self._rows.writeheader()
            self._csv.flush()

    def add(self, row: Row) -> None:
        """Write a row to both files."""
        self._rows.writerow(row)
        self._jsonl.write(json.dumps(row) + "\n")
        if self.lasting:
            self._csv.flush()
            self._jsonl.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; they get their names unless something failed (Ctrl-C keeps what is there)."""
        for file in (self._csv, self._jsonl):
            file.close()
        if not self.lasting and (kind is None or issubclass(kind, KeyboardInterrupt)):
            for name in (CSV, JSONL):
                os.replace(self._path(name), self.folder / name)

    def _path(self, name: str) -> Path:
        return self.folder / (name if self.lasting else f".{name}.part")


def known_paths(folder: Path) -> list[str]:
    """The paths that ``predictions.jsonl`` in ``folder`` has rows of."""
    path = folder / JSONL
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8") as lines:
            return [str(json.loads(line[:MOST_JSON])["path"]) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be gone on with ({error}): choose another folder for --out") from error
