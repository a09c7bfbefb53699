"""How much faster a detector of latents trains if what is nearest to known latents is looked up only once.

The latents are random. Both ways take turns in one process, learn the same, and end with nearly the same
loss. Later trainings in one command begin with what the first one found, as the rounds of train_ppo.py do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from detectors.latent_transformer import LatentTransformer, token_losses
from detectors.memory_bank.neighbour_cache import remembering
from detectors.synthetic.latent import KINDS, LatentSynthesis
from detectors.tokens import grid_of
from detectors.training.batches import Batch
from detectors.training.latent_batches import SAMPLES, LatentBatchSampler, Pool
from detectors.training.loop import train_detector
from latent_common.progress import progress_bar
from latent_common.training_state import TrainingState

EVERY_STEP, ONCE, AGAIN = "in every step", "once", "once, second training"
"""When what is nearest is looked up."""


def made_sampler(shape: Sequence[int], images: int, pooled: int) -> LatentBatchSampler:
    """Random latents of ``images``, with pools of ``pooled`` varied and anomalous ones."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).half()

    sources = torch.arange(pooled) % images
    shares = (torch.rand(pooled, 1, *grid_of(shape), generator=generator) < 0.1).float()
    varied = Pool(drawn(pooled), torch.zeros_like(shares), sources)
    anomalous = Pool(drawn(pooled), shares, sources)
    synthesis = LatentSynthesis(dict.fromkeys(KINDS, 1.0))
    return LatentBatchSampler(drawn(images), synthesis, varied, anomalous, pool_share=0.5)


def training(
    sampler: LatentBatchSampler,
    memory_size: int,
    steps: int,
    batch_size: int,
    once: bool,
    found: Tensor | None,
) -> tuple[float, float, Tensor]:
    """Seconds that a training takes, its last loss, and what was found."""
    torch.manual_seed(0)
    detector = LatentTransformer(sampler.latents.shape[1:], memory_size)
    began = time.perf_counter()
    nearest = remembering(detector.memory, sampler.latents, sampler.first_known[-1], found)
    state = TrainingState(detector, 1e-3, steps, seed=0)

    def inputs_of(batch: Batch) -> tuple[Any, ...]:
        seen = (batch.images, batch.sources, state.generator)
        if not once or batch.known is None:
            return seen
        return *seen, nearest(batch.images, batch.sources, batch.known)

    loss = float("nan")
    for progress in train_detector(state, detector, sampler, inputs_of, batch_size, token_losses):
        loss = float(progress.losses["total"])
    return time.perf_counter() - began, loss, nearest.found[: sampler.first_known[SAMPLES]]


def measure(options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds and last losses by when what is nearest is looked up, one for each repeat."""
    sampler = made_sampler(options.shape, max(options.images, options.memory_size), options.pool)
    found: dict[str, list[tuple[float, float]]] = {EVERY_STEP: [], ONCE: [], AGAIN: []}
    known: Tensor | None = None
    with progress_bar("trainings", options.repeats * len(found)) as bar:
        for _ in range(options.repeats):
            for way, results in found.items():
                seconds, loss, known = training(
                    sampler,
                    options.memory_size,
                    options.steps,
                    options.batch_size,
                    way != EVERY_STEP,
                    known if way == AGAIN else None,
                )
                results.append((seconds, loss))
                bar.update()
    return found


def main() -> None:
    """Measure, and print how much faster it is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nearest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 14, 14], help="of a latent: C h w")
    parser.add_argument("--remembered", type=int, default=600, help="images that the memory holds")
    parser.add_argument("--images", type=int, default=600, help="training images")
    parser.add_argument("--pool", type=int, default=1000, help="varied and anomalous images, each")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options)
    usual = median(seconds for seconds, _ in found[EVERY_STEP])
    print(f"\n{'looked up':<24}{'seconds':>8}{'ratio':>8}{'last loss':>12}")
    for way, results in found.items():
        seconds = median(seconds for seconds, _ in results)
        print(f"{way:<24}{seconds:>8.2f}{usual / seconds:>8.2f}{results[-1][1]:>12.6f}")


if __name__ == "__main__":
    main()
