"""How much memory preparation and training take at most, against the number of images.

Each is a process of its own, as a user starts it: first the preparation, then the first two stages for a
few steps, with the training images in memory and read from disk. Memory is the most that was ever
resident, Python, its libraries and mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.drawn import draw_set

ROOT = Path(__file__).parents[1]
STEPS = ["autoencoder.steps=10", "detector.steps=10"]
NEVER, ALWAYS = "0.001", "1000000"
"""Limits in MB that keep the training images out of memory, and in it."""


def peak(command: list[str], folder: Path) -> float:
    """Run a command in ``folder`` and return the most memory in MB that it held."""
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-2000:]}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KB here


def measure(work: Path, count: int, side: int, size: int) -> dict[str, float]:
    """Peak memory in MB by what was done, for ``count`` images."""
    root = work / str(count)
    draw_set(root, count, side, "png")
    data = [f"dataset.root={root}", f"dataset.size={size}", "dataset.channels=1"]
    stages = [str(ROOT / "train_detector.py"), "dataset=folder", *data, *STEPS]
    figures = {"preparation": peak(["-m", "latent_env.data", "folder", *data], work)}
    for name, limit in (("training, in memory", ALWAYS), ("training, from disk", NEVER)):
        figures[name] = peak([*stages, f"memory={limit}", f"runs=runs {limit}"], work)
        shutil.rmtree(work / f"runs {limit}")
    shutil.rmtree(root)
    return figures


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="how many images (default 2000)")
    parser.add_argument("--side", type=int, default=256, help="their native side in pixels (default 256)")
    parser.add_argument("--size", type=int, default=64, help="the prepared side in pixels (default 64)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    counts = [max(options.images // 10, 100), options.images]
    work = Path(tempfile.mkdtemp())
    try:
        found = {count: measure(work, count, options.side, options.size) for count in counts}
    finally:
        shutil.rmtree(work)
    print(f"peak memory in MB, images of {options.side} px prepared at {options.size} px\n")
    print(f"{'':22}" + "".join(f"{count:>10} images" for count in counts))
    for name in found[counts[0]]:
        print(f"{name:22}" + "".join(f"{found[count][name]:17.0f}" for count in counts))
    whole = [count * options.size**2 / 2**20 for count in counts]
    print(f"{'(the images alone)':22}" + "".join(f"{megabytes:17.0f}" for megabytes in whole))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
