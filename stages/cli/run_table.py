"""`latent-aug runs`: a table of the runs in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latent_common.artifacts import read_json
from latent_common.errors import UserError
from latent_common.tables import markdown_table
from stages.cli.options import Parser

KEY_FIGURES = (
    *("image_AUROC", "pixel_AUPRO", "labelled_AUROC", "false_alarms"),
    *("valid_psnr", "quality"),
)
"""The figures that a run is known by, where it has them."""

HEADER = ["finished", "data set", "stage", "figures", "predicts", "folder"]
UNFINISHED = "not yet"


def make_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser("runs", "A table of runs, the newest first.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), help="where they are (default runs)"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON a run, with all figures")
    return parser


def show_runs(arguments: list[str]) -> int:
    """Print what runs there are; 0."""
    options = make_parser().parse_args(arguments)
    found = sorted(find_runs(options.folder), key=lambda run: run["time"], reverse=True)
    if not found:
        raise UserError(f"{options.folder} holds no runs: `latent-aug train` makes one below runs/")
    if options.json:
        print("\n".join(json.dumps({**run, "folder": str(run["folder"])}) for run in found))
    else:
        print(markdown_table(HEADER, [_cells(run) for run in found]))
    return 0


def find_runs(root: Path) -> Iterator[dict[str, Any]]:
    """The facts of every run ``<data set>/<stage>/<name>`` below ``root``, finished or not."""
    for configuration in root.glob("*/*/*/config.yaml"):
        folder = configuration.parent
        complete = folder / "metrics.json"
        finished = complete.is_file()
        yield {
            "dataset": folder.parts[-3],
            "stage": folder.parts[-2],
            "name": folder.name.rpartition("-")[0],
            "finished": finished,
            "time": (complete if finished else configuration).stat().st_mtime,
            "metrics": _metrics(complete) if finished else {},
            "predicts": finished and (folder / "decision.json").is_file(),
            "folder": folder,
        }


def _metrics(path: Path) -> Mapping[str, Any]:
    """What is in ``metrics.json``; nothing if it is damaged, which must not hide the other runs."""
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _cells(run: Mapping[str, Any]) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["time"])) if run["finished"] else UNFINISHED
    known = {name: run["metrics"].get(name) for name in KEY_FIGURES}
    figures = [f"{name} {value:.3f}" for name, value in known.items() if isinstance(value, int | float)]
    predicts = "yes" if run["predicts"] else ""
    return [when, run["dataset"], run["stage"], ", ".join(figures), predicts, str(run["folder"])]
