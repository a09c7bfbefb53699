"""What `latent-aug predict` is called with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError
from latent_env.worlds.thresholds import FALSE_ALARMS
from stages.cli.options import Parser, add_machine, add_run, add_threshold, check_threads

EXAMPLES = """\
examples:
  latent-aug predict runs photos/ --out checked
  latent-aug predict runs/mine/detector/knn-1a2b3c4d5e 'line/**/*.png' --false-alarms 0.005
  find /data -name '*.tif' | latent-aug predict phantom - --out checked --pictures none
  latent-aug predict runs --watch inbox --out checked --fail-on anomaly
  latent-aug predict --onnx model.onnx photos/ --out checked

Lines are printed, or with --out written to predictions.csv and predictions.jsonl: path, score (from 0 to 1,
.5 is the threshold), p_value (how often normal images score as high), verdict, and the largest finding: its
share of the image's area and its box in pixels. A file that can't be read has the verdict "broken" and an
error.

exit code: 0; 1 with --fail-on anomaly if there was one; 2 if nothing could be predicted; 130 after Ctrl-C.
"""

PICTURES = ("all", "anomalies", "none")


@dataclass(frozen=True)
class Options:
    """The arguments, checked."""

    run: str
    """Empty where a file is predicted with."""
    onnx: Path | None
    images: tuple[str, ...]
    out: Path | None
    watch: Path | None
    false_alarms: float
    best_f1: bool
    fail_on_anomaly: bool
    pictures: str
    device: str
    threads: int


def make_parser() -> Parser:
    """The parser of the command line, for its help and for shells."""
    about = "Say of images whether they are anomalies, and where."
    parser = Parser("predict", about, EXAMPLES)
    add_run(parser, "; not with --onnx", nargs="?")
    parser.add_argument(
        "images", nargs="*", help="files, folders and globs; - reads paths from standard input"
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="FILE", help="a detector that latent-aug export wrote, in place of a run"
    )
    parser.add_argument(
        "--out", type=Path, help="the folder for predictions.csv, .jsonl, overlays/ and masks/"
    )
    parser.add_argument(
        "--watch", type=Path, metavar="FOLDER", help="predict images as they come, until Ctrl-C"
    )
    add_threshold(parser)
    parser.add_argument("--fail-on", choices=["anomaly"], help="exit with 1 if there is an anomaly")
    parser.add_argument(
        "--pictures",
        choices=PICTURES,
        default=PICTURES[0],
        help="which images get an overlay and a mask (default all)",
    )
    add_machine(parser)
    return parser


def read_options(arguments: list[str]) -> Options:
    """The options that ``arguments`` give; what makes no sense is a ``UserError``."""
    given = make_parser().parse_args(arguments)
    if given.onnx is not None:
        given.run, given.images = "", [*([] if given.run is None else [given.run]), *given.images]
        if given.false_alarms is not None or given.best_f1:
            raise UserError(f"the threshold is inside {given.onnx}: choose it when you export")
    elif given.run is None:
        raise UserError("no detector: name the folder of a run, or a file with --onnx FILE")
    if given.watch is not None and given.images:
        raise UserError(f"--watch {given.watch} and {given.images[0]}: give one of both")
    if given.watch is None and not given.images:
        raise UserError(
            "no images: name files, folders or globs, - for a list on standard input, or --watch FOLDER"
        )
    check_threads(given.threads)
    return Options(
        run=given.run,
        onnx=given.onnx,
        images=tuple(given.images),
        out=given.out,
        watch=given.watch,
        false_alarms=FALSE_ALARMS if given.false_alarms is None else given.false_alarms,
        best_f1=given.best_f1,
        fail_on_anomaly=given.fail_on == "anomaly",
        pictures=given.pictures,
        device=given.device,
        threads=given.threads,
    )
