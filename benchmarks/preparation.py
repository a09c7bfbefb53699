"""How fast a data set is prepared, against the bare limit, and how much memory it takes.

The bare limit is the same decoding and resizing in a process pool with nothing else: no order, no
checks, no digests, no files written. Both sides run in turns in one process, on images made for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.drawn import draw_set
from latent_common.machine import cores
from latent_common.progress import progress_bar
from latent_env.data.finding import list_images
from latent_env.data.images import open_image, shrink_image
from latent_env.data.layouts.mvtec import mvtec_source
from latent_env.data.preparation import prepare
from latent_env.data.samples import Problems
from latent_env.data.splitting import Splitting

GOAL = 0.8
"""Of the bare limit; below it the command ends with 1."""


def bare(path: Path, size: int) -> int:
    """Decode and resize one file, and drop it."""
    image, _ = open_image(path, size)
    return shrink_image(image, size, 1).size


def bare_limit(paths: list[Path], size: int) -> float:
    """Images a second of a process pool that does nothing else; starting the pool isn't counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context) as pool:
        first = paths[: 8 * cores()]
        list(pool.map(bare, first, [size] * len(first)))  # by then every process has imported all it needs
        began = time.perf_counter()
        list(pool.map(bare, paths, [size] * len(paths), chunksize=16))
        return len(paths) / (time.perf_counter() - began)


def preparation(root: Path, size: int, count: int) -> float:
    """Images a second of the preparation, from finding the files to the last one written."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run_preparation(root, size, Path(folder))
        return count / (time.perf_counter() - began)


def run_preparation(root: Path, size: int, folder: Path) -> None:
    """Prepare the drawn set in ``folder``."""
    problems = Problems()
    source = mvtec_source(root, "drawn", Splitting(), problems, channels=1)
    prepare(source, size, folder, problems, progress=False)


def peak_memory(arguments: list[str]) -> float:
    """The most memory in MB that a preparation in a process of its own ever held."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.preparation", "--memory-of", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def own_peak() -> float:
    """The most memory in MB that this process ever held, Python and its libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KB here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> int:
    """Measure, print a table, and say whether the goal is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preparation", description=__doc__)
    parser.add_argument("--images", type=int, default=600, help="how many images (default 600)")
    parser.add_argument("--side", type=int, default=512, help="their native side in pixels (default 512)")
    parser.add_argument("--size", type=int, default=64, help="the prepared side in pixels (default 64)")
    parser.add_argument("--format", choices=["png", "jpg"], default="png", help="of the files")
    parser.add_argument("--repeats", type=int, default=5, help="turns of both sides (default 5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--memory-of", nargs=3, metavar=("ROOT", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        root, size, folder = options.memory_of
        run_preparation(Path(root), int(size), Path(folder))
        print(own_peak())
        return 0

    work = Path(tempfile.mkdtemp())
    try:
        draw_set(work / "all", options.images, options.side, options.format)
        paths = [path for folder in sorted((work / "all").glob("*/*")) for path in list_images(folder)]
        rates: dict[str, list[float]] = {"bare limit": [], "preparation": []}
        with progress_bar("measuring", 2 * options.repeats) as bar:
            for _ in range(options.repeats):
                rates["bare limit"].append(bare_limit(paths, options.size))
                bar.update()
                rates["preparation"].append(preparation(work / "all", options.size, len(paths)))
                bar.update()
        ratios = [p / b for p, b in zip(rates["preparation"], rates["bare limit"], strict=True)]
        # A tenth of the images, to see whether memory grows with their number.
        draw_set(work / "tenth", max(options.images // 10, 40), options.side, options.format)
        memory = {
            name: peak_memory([str(work / name), str(options.size), str(work / f"prepared {name}")])
            for name in ("tenth", "all")
        }
        figures: dict[str, Any] = {
            "images": len(paths),
            "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
            "preparation_over_bare_limit": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)],
            "source_mb": sum(path.stat().st_size for path in paths) / 2**20,
            "prepared_mb": len(paths) * options.size**2 / 2**20,
            "peak_memory_mb": memory,
        }
    finally:
        shutil.rmtree(work)
    show(figures, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if figures["preparation_over_bare_limit"] >= GOAL else 1


def show(figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the figures for a person."""
    low, high = figures["spread"]
    ratio = figures["preparation_over_bare_limit"]
    speed, memory = figures["images_per_second"], figures["peak_memory_mb"]
    print(
        f"{figures['images']} {options.format} images of {options.side} px to {options.size} px, "
        f"{cores()} cores, median of {options.repeats}\n"
        f"bare limit     {speed['bare limit']:8.0f} images/s\n"
        f"preparation    {speed['preparation']:8.0f} images/s\n"
        f"ratio          {ratio:8.2f} ({low:.2f} to {high:.2f}; goal {GOAL})\n"
        f"files          {figures['source_mb']:8.0f} MB, resized {figures['prepared_mb']:.0f} MB\n"
        f"peak memory    {memory['all']:8.0f} MB for all, {memory['tenth']:.0f} MB for a tenth of them,\n"
        "               both with Python and its libraries"
    )


if __name__ == "__main__":
    sys.exit(main())
