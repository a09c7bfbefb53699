"""How many threads PyTorch should use here: measured, because nobody can know.

Networks as small as these often lose by more threads, and on a machine that others use as well threads that
wait for each other can be many times slower than one.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import nn

from latent_common.machine import cores

CANDIDATES = (1, 2, 4, 8)
"""Small networks gain nothing from more."""

TURNS, PASSES = 4, 3
WORTH = 1.1
"""More threads must be so many times as fast: they take cores from others."""


def measured_threads() -> tuple[int, float]:
    """How many threads are best here, and how many times as fast as one they are.

    A convolution learns a few batches with each number in turn; of each the best turn counts. A fifth of a
    second.
    """
    candidates = [count for count in CANDIDATES if count <= cores()]
    if len(candidates) == 1:
        return 1, 1.0
    before = torch.get_num_threads()
    layer, batch = nn.Conv2d(32, 32, 3, padding=1), torch.ones(16, 32, 32, 32)
    best = dict.fromkeys(candidates, float("inf"))
    try:
        for _ in range(TURNS):
            for count in candidates:
                torch.set_num_threads(count)
                began = perf_counter()
                for _ in range(PASSES):
                    layer(batch).square().mean().backward()
                best[count] = min(best[count], perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    chosen = 1
    for count in candidates[1:]:
        if best[count] * WORTH < best[chosen]:
            chosen = count
    return chosen, best[1] / best[chosen]
