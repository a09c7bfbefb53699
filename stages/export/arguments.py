"""What `latent-aug export` is called with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError
from latent_env.worlds.decision import FALSE_ALARMS
from stages.predict.arguments import Parser

EXAMPLES = """\
examples:
  latent-aug export runs --onnx model.onnx
  latent-aug export runs/mine/detector/knn-1a2b3c4d5e --onnx model.onnx --false-alarms 0.005
  latent-aug predict --onnx model.onnx photos/ --out checked

The ONNX file takes images (N, C, H, W) of uint8 at the detector's size and answers with a score (from 0 to 1,
.5 is the threshold), a p_value and a map of each. The threshold is inside: choose it here.
"""


@dataclass(frozen=True)
class Options:
    """The arguments, checked."""

    run: str
    onnx: Path
    false_alarms: float
    best_f1: bool


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, for its help and for shells."""
    parser = Parser(
        prog="latent-aug export",
        description="Write what other programs use: a detector as one ONNX file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", help="the folder of a run, one of runs (the newest is taken), or a built-in world"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="the detector, from pixels to verdict")
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="RATE",
        help="the share of normal images that may be called anomalies (default %(default)s)",
    )
    threshold.add_argument(
        "--best-f1", action="store_true", help="the threshold that is best on labelled anomalies"
    )
    return parser


def read_options(arguments: list[str]) -> Options:
    """The options that ``arguments`` give; what makes no sense is a ``UserError``."""
    given = make_parser().parse_args(arguments)
    if given.onnx is None:
        raise UserError("nothing to export: name a file with --onnx FILE")
    return Options(given.run, given.onnx, given.false_alarms, given.best_f1)
