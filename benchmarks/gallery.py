r"""A picture of the best paid samples of a run, small enough for a page: ``docs/images/samples.png`` is one.

python train_ppo.py dataset.size=128 dataset.train=200 dataset.valid=40 dataset.test=40 \
        autoencoder.steps=300 detector.steps=80 detector.width=32 agent.total_steps=4096 \
        samples=256 rounds=1 reward_ensemble.count=1 share=0.25
python -m benchmarks.gallery runs/phantom/agent/ppo-*
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from agents.rollout import KINDS, load_augmented
from benchmarks.augmentation.samples import save_small
from latent_common.errors import UserError
from latent_env.rendering import Picture
from latent_env.worlds.store import load_world
from stages.augmentation.pictures.originals import ranked
from stages.augmentation.pictures.sheets import draw_sheet, real_anomalies

OUT = Path("docs/images/samples.png")
KIND, ROWS = "copy_paste", 3


def draw_gallery(run: Path, kind: str, rows: int) -> Picture:
    """The best paid samples of a kind, of different originals, in rows beside the originals."""
    made, world = load_augmented(run / "augmented.npz"), load_world(str(run), torch.device("cpu"))
    picks = [pick for pick in ranked(made) if KINDS[made.kinds[pick]] == kind][:rows]
    if not picks:
        raise UserError(f"{run} has no samples of the kind {kind}: choose another of {', '.join(KINDS[1:])}")
    places = [f"no. {number + 1}" for number in range(len(picks))]
    return draw_sheet(made.at(torch.tensor(picks)), world.images, real_anomalies(world), places)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture, and say where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run of train_ppo.py")
    parser.add_argument("--kind", choices=KINDS[1:], default=KIND, help="of samples")
    parser.add_argument("--rows", type=int, default=ROWS, help="how many samples are shown")
    parser.add_argument("--out", type=Path, default=OUT, help="the PNG to write")
    given = parser.parse_args(arguments)
    try:
        print(save_small(given.out, draw_gallery(given.run, given.kind, given.rows)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
