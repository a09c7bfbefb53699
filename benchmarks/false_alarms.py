"""How often normal images are called anomalies, beside how often it was promised, over random splits."""

from __future__ import annotations

import argparse

import numpy as np

import latent_env
from latent_common.tables import markdown_table
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.worlds.thresholds import Decision

IMAGES, SEED = 800, 1
"""New normal slices; the built-in detector learned from those of another seed."""

TEST = 400
RATES, COUNTS = (0.01, 0.05, 0.1), (60, 120, 400)


def main() -> None:
    """Print the table: a row a number of validation images, a column a rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=2000, help="how many random splits (default 2000)")
    splits = parser.parse_args().splits
    test = make_phantom_dataset(64, 8, 8, 2 * IMAGES, seed=SEED).test
    detector = latent_env.load_detector("phantom")
    scores = np.array([each.raw_score for each in detector.predict(test.images[test.labels == 0])])
    rows = [
        [count, *(cell(scores.astype(np.float32), count, rate, splits) for rate in RATES)] for count in COUNTS
    ]
    print(markdown_table(["validation images", *(f"{rate:.0%}" for rate in RATES)], rows))


def cell(scores: np.ndarray[tuple[int], np.dtype[np.float32]], count: int, rate: float, splits: int) -> str:
    """What was promised and what came, with ``count`` validation images."""
    came, promised = [], 0.0
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(scores))
        normal = np.sort(scores[order[:count]])
        decision = Decision(normal, normal, np.zeros(0, np.float32), "phantom")
        threshold = decision.for_false_alarms(rate)
        assert threshold.promised is not None
        promised = threshold.promised
        came.append((scores[order[count : count + TEST]] > threshold.score).mean())
    return f"promised {promised:.1%}, came {np.mean(came):.1%} ± {np.std(came):.1%}"


if __name__ == "__main__":
    main()
