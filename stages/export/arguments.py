"""What `latent-aug export` is called with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError
from latent_env.worlds.thresholds import FALSE_ALARMS
from stages.cli.options import Parser, add_run, add_threshold

EXAMPLES = """\
examples:
  latent-aug export runs --onnx model.onnx
  latent-aug export runs/mine/detector/knn-1a2b3c4d5e --onnx model.onnx --false-alarms 0.005
  latent-aug predict --onnx model.onnx photos/ --out checked
  latent-aug export runs --samples samples --layout coco
  latent-aug export runs --samples samples --best 100

The ONNX file takes images (N, C, H, W) of uint8 at the detector's size and answers with a score (from 0 to 1,
.5 is the threshold), a p_value and a map of each. The threshold is inside: choose it here.

The folder of samples has images with masks in the chosen layout, drawn into the original files where these
are still there, and samples.csv, which says where each came from. Those that a person rejected are left out.
"""


LAYOUT_NAMES = ("mvtec", "coco", "yolo", "npz")


@dataclass(frozen=True)
class Options:
    """The arguments, checked."""

    run: str
    onnx: Path | None
    false_alarms: float
    best_f1: bool
    samples: Path | None
    layout: str
    best: int | None


def make_parser() -> Parser:
    """The parser of the command line, for its help and for shells."""
    about = "Write what other programs use: a detector as one ONNX file, or samples with masks."
    parser = Parser("export", about, EXAMPLES)
    add_run(parser)
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="the detector, from pixels to verdict")
    parser.add_argument("--samples", type=Path, metavar="DIR", help="a new folder for what the agent made")
    parser.add_argument("--layout", choices=LAYOUT_NAMES, help=f"of --samples (default {LAYOUT_NAMES[0]})")
    parser.add_argument(
        "--best", type=int, metavar="N", help="of --samples: only the N best paid anomalies (default all)"
    )
    add_threshold(parser)
    return parser


def read_options(arguments: list[str]) -> Options:
    """The options that ``arguments`` give; what makes no sense is a ``UserError``."""
    given = make_parser().parse_args(arguments)
    if given.onnx is None and given.samples is None:
        raise UserError("nothing to export: name a file with --onnx FILE, or a folder with --samples DIR")
    if given.onnx is None and (given.false_alarms is not None or given.best_f1):
        raise UserError("a threshold is of a detector: name a file with --onnx FILE")
    for name, value in (("--layout", given.layout), ("--best", given.best)):
        if value is not None and given.samples is None:
            raise UserError(f"{name} {value} is of samples: name a folder with --samples DIR")
    if given.best is not None and given.best < 1:
        raise UserError(f"--best {given.best} must be at least 1")
    rate = FALSE_ALARMS if given.false_alarms is None else given.false_alarms
    layout, threshold = given.layout or LAYOUT_NAMES[0], (rate, given.best_f1)
    return Options(given.run, given.onnx, *threshold, given.samples, layout, given.best)
