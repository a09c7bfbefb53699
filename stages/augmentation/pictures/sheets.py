"""Contact sheets of what an agent made: by kind, sorted by reward, beside the original and a real anomaly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.rollout import KINDS, Augmented
from latent_env.data import Split
from latent_env.rendering import Picture, close_up, heat, outlined, side_by_side, stack, tile_side, to_rgb
from latent_env.shell import ANOMALY
from latent_env.worlds.world import World

ROWS = 6
"""So many samples are on a sheet, evenly spaced from the best paid to the worst paid."""

BRIGHTER = 8
"""Differences are drawn so many times as bright: those of normal variations are faint."""


class Examples(NamedTuple):
    """Real anomalies to compare samples with."""

    images: Tensor
    """``(K, C, H, W)`` uint8"""
    masks: Tensor
    """``(K, 1, H, W)`` bool"""
    numbered: bool
    """Whether they are the world's labelled anomalies, in the order that samples count them in."""


def real_anomalies(
    world: World, valid: Split | None = None, rows: NDArray[np.int64] | None = None
) -> Examples | None:
    """The world's labelled anomalies; if it keeps none as images, those at ``rows`` of ``valid``, if any."""
    kept = world.labelled_anomalies
    if kept is not None and len(kept.images):
        return Examples(kept.images.cpu(), kept.masks.cpu(), numbered=True)
    if valid is None or rows is None or not len(rows):
        return None
    images = torch.from_numpy(np.array(valid.images[rows]))
    if valid.masks is None:
        return Examples(images, torch.zeros_like(images[:, :1], dtype=torch.bool), numbered=False)
    return Examples(images, torch.from_numpy(np.array(valid.masks[rows]))[:, None], numbered=False)


def sample_sheets(
    augmented: Augmented, starts: Tensor, examples: Examples | None, rows: int = ROWS
) -> dict[str, Picture]:
    """A sheet for each kind of sample that there is, by the names in :data:`agents.rollout.KINDS`.

    A row is a sample. It shows the untouched original, what was made of it with a thin line around what
    changed, both again in a close-up, and a real anomaly: the one that was copied, or any. Of a normal
    variation it shows the difference instead.

    :param starts: ``(S, C, H, W)`` uint8, the images that ``augmented.source`` counts.
    """
    sheets = {}
    for kind in KINDS:
        chosen, places = ranked_samples(augmented, kind, rows)
        if len(chosen):
            sheets[kind] = draw_sheet(chosen, starts, examples, places)
    return sheets


def ranked_samples(augmented: Augmented, kind: str, count: int) -> tuple[Augmented, list[str]]:
    """Some samples of a kind, evenly spaced from the best paid to the worst paid, and their ranks."""
    found = (augmented.kinds == KINDS.index(kind)).nonzero().flatten()
    ranked = found[augmented.reward[found].argsort(descending=True, stable=True)]
    ranks = torch.linspace(0, max(len(ranked) - 1, 0), min(count, len(ranked))).round().long()
    return augmented.at(ranked[ranks]), [f"{int(rank) + 1} of {len(ranked)}" for rank in ranks]


def draw_sheet(
    samples: Augmented, starts: Tensor, examples: Examples | None, places: Sequence[str]
) -> Picture:
    """The sheet of ``samples`` of one kind, as :func:`sample_sheets` has it; ``places`` say their ranks."""
    side, rows = tile_side(samples.images.shape[-1]), []
    for index, place in enumerate(places):
        tiles, captions = row_tiles(samples, index, starts, examples)
        captions[1] += f": reward {float(samples.reward[index]):.2f}, {place}"
        rows.append(side_by_side(tiles, captions, side))
    return stack(rows)


def row_tiles(
    made: Augmented, index: int, starts: Tensor, examples: Examples | None
) -> tuple[list[Picture], list[str]]:
    """The tiles of the sample at ``index`` of ``made``, and their captions."""
    image, start = made.images[index], starts[made.source[index]].cpu()
    if made.labels[index] != ANOMALY:
        change = (image.float() - start.float()).abs().mean(0) / 255
        tiles = [to_rgb(start), to_rgb(image), heat(change * BRIGHTER)]
        return tiles, ["original", "made", f"difference, {BRIGHTER} times as bright"]
    mask, side = made.masks[index, 0].numpy(), tile_side(image.shape[-1])
    where, before, after = close_up(mask), to_rgb(start), to_rgb(image)
    tiles = [before, outlined(after, mask, side), before[where], after[where]]
    captions = ["original", "made", "original, close-up", "made, close-up"]
    if examples is not None:
        copied = int(made.copied[index])
        known = examples.numbered and copied >= 0
        number = copied if known else index % len(examples.images)
        real, marked = to_rgb(examples.images[number]), examples.masks[number, 0].numpy()
        what = f"real anomaly {number + 1}"
        tiles += [outlined(real, marked, side), real[close_up(marked)]]
        captions += [f"{what}, copied here" if known else what, f"{what}, close-up"]
    return tiles, captions
