"""How long imports and a first environment take, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from latent_common.progress import progress_bar

MARKS = {
    "import gymnasium": "import gymnasium as gym",
    "import latent_env": "import latent_env",
    "import torch": "import torch",
    "gym.make": "env = gym.make('LatentAug-v0')",
    "first reset and step": "env.reset(seed=0); env.step(env.action_space.sample())",
}
"""What is timed, one after the other."""

PROGRAM = "\n".join(
    [
        "from time import perf_counter",
        "since = perf_counter()",
        *(f"{code}\nprint(perf_counter() - since); since = perf_counter()" for code in MARKS.values()),
    ]
)


def measure(repeats: int) -> dict[str, float]:
    """Milliseconds that each of :data:`MARKS` takes after those before it: medians over fresh processes."""
    found: dict[str, list[float]] = {name: [] for name in MARKS}
    with progress_bar("imports", repeats) as bar:
        for _ in range(repeats):
            printed = subprocess.run(
                [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
            ).stdout
            for name, line in zip(MARKS, printed.splitlines(), strict=True):
                found[name].append(1000 * float(line))
            bar.update()
    return {name: median(values) for name, values in found.items()}
