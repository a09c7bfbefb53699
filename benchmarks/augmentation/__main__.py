"""Does augmentation by an agent help? train_ppo.py over settings, tracks, data sets, agents and seeds.

Runs are made one after the other. What is finished is used again: the same command goes on after Ctrl-C, and
more seeds, agents or data sets may be asked for later. A run that fails is listed, and the others go on.

Examples:
  python -m benchmarks.augmentation --datasets phantom --seeds 3
  python -m benchmarks.augmentation --data /data --backbone /models/mobilenet_v1_1.0_224
  python -m benchmarks.augmentation --settings generator --tracks few_labelled --datasets bottle kolektor busi
      --agents none pastes pastes_decoded strokes ppo --weights /models/taef2 --backbone /models/mobilenet
  python -m benchmarks.augmentation --also "liver=dataset=bmad_liver dataset.size=128" --datasets liver
  python -m benchmarks.augmentation --datasets phantom --variants default labelled=5 --tracks few_labelled
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks.augmentation.choices import (
    AGENTS,
    DEFAULT,
    SETTINGS,
    STUDY_DATASETS,
    TRACKS,
    USUAL_AGENTS,
    VARIANTS,
)
from benchmarks.augmentation.collect import facts_of, pairs_of, results_of
from benchmarks.augmentation.figures import draw_figures
from benchmarks.augmentation.plan import make_plan
from benchmarks.cases import Script
from benchmarks.command import Comparison, new_parser, parse, run_command
from benchmarks.report import About
from benchmarks.scripts import SCRIPTS

NAME = "augmentation"
COLUMNS = ("setting", "track", "data set", "variant")
METRICS = ("image_AUROC", "pixel_AP", "pixel_AUPRO")
QUESTION = "Does augmentation by an agent help?"
METHOD = """\
Each run is one `train_ppo.py`: a detector without samples, an agent, and detectors that also learn from its
samples, trained from the same weights in the same number of steps; validation chooses among them, the one
without samples included. Values are those of the chosen one. Agent `none` adds nothing and is the reference;
`cutpaste` and `perlin` add nothing either and learn from one kind of image-space anomaly alone. The other
detectors in the table learn from normal images alone."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_ppo")
    offered = {
        "settings": (SETTINGS, list(SETTINGS), "all"),
        "tracks": (TRACKS, list(TRACKS), "both"),
        "datasets": (STUDY_DATASETS, None, "all that are found in --data"),
        "agents": (AGENTS, list(USUAL_AGENTS), " ".join(USUAL_AGENTS)),
        "variants": (VARIANTS, [DEFAULT], DEFAULT),
    }
    for name, (known, usual, said) in offered.items():
        text = f"{', '.join(known)} (default: {said})"
        made.add_argument(f"--{name}", nargs="+", metavar="NAME", default=usual, help=text)
    text = "one more data set, as keys of train_ppo.py; may be repeated"
    made.add_argument("--also", action="append", default=[], metavar='"NAME=KEY=VALUE …"', help=text)
    text = "a pretrained network, a folder or a hub name, for settings pretrained and generator"
    made.add_argument("--backbone", metavar="NAME", help=text)
    text = "the weights of a published generator, as for autoencoder=taesd, for setting generator"
    made.add_argument("--weights", metavar="DIR", help=text)
    return made


def main(arguments: Sequence[str] | None = None, scripts: Mapping[str, Script] = SCRIPTS) -> int:
    """Run the study; returns the exit code."""
    options = parse(parser(), arguments)
    plan = make_plan(options)
    for remark in plan.remarks:
        print(remark, file=sys.stderr)
    about = About(QUESTION, COLUMNS, METRICS, METHOD, options.command, plan.remarks)
    return Comparison(about, plan.cases, results_of, pairs_of, facts_of, draw_figures).conduct(
        options, scripts
    )


if __name__ == "__main__":
    run_command(NAME, main)
