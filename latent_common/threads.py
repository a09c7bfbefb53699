"""How many threads PyTorch should use: it is measured.

Networks as small as these are often slower with more threads, and on a busy machine threads that wait for
each other can be many times slower than one.
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import nn

from latent_common.machine import cores

CANDIDATES = (1, 2, 4, 8)
"""Numbers of threads that are measured; small networks gain nothing from more."""

TURNS, PASSES = 4, 3
"""Each number of threads is measured in so many turns of so many passes."""

WORTH = 1.1
"""More threads must be so many times as fast to be chosen, as they take cores from other processes."""


def measured_threads() -> tuple[int, float]:
    """The best number of threads, and how many times as fast as one they are.

    A convolution learns from a few batches with each number in turn, and the best turn of each counts. It
    takes a fifth of a second.
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
