"""How fast the step, PPO and the trainings are next to the least they could cost.

Both sides of every ratio take turns in one process, so that a busy machine slows both down alike; what is
printed is the median of the repeats, with quartiles.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents.learners.batch_ppo import BatchPPO, scaled_to
from benchmarks.speed import imports, policies, scale, steps, trainings
from benchmarks.speed.timing import Rates, Ratio, ratio
from latent_common.machine import cores, resolve_device

WORLDS = [1, 16, 64, 256, 1024]
QUICK_WORLDS = [16, 64]
ON_GPU = 4096
SHORT_TURNS, LONG_STEPS = 4, 1024


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer worlds and repeats: some five minutes")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--world", default="phantom", help="a built-in world or a folder of artifacts")
    parser.add_argument("--worlds", type=int, nargs="+", help=f"numbers of worlds (default {WORLDS})")
    parser.add_argument("--ppo-worlds", type=int, help="worlds for PPO (default 64, on a GPU 1024)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--repeats", type=int, help="turns of each side (default 5, quick 3)")
    parser.add_argument("--scale", action="store_true", help="also how cost and memory grow with the work")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    return parser.parse_args()


def main() -> None:
    """Measure, print tables, and write the figures."""
    options = parsed()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    print(
        f"{name}, {options.threads} of {cores()} threads, torch {torch.__version__}, world {options.world}\n"
    )
    figures = Figures()
    counts = options.worlds or [*(QUICK_WORLDS if options.quick else WORLDS)]
    if device.type == "cuda" and not options.worlds:
        counts.append(ON_GPU)
    repeats = options.repeats or (3 if options.quick else 5)
    seconds = 0.5 if options.quick else 2.0
    kind = device.type

    stepping = {
        # Many short turns: what slows the machine down for a while then meets all sides alike.
        count: steps.measure(
            options.world,
            count,
            kind,
            SHORT_TURNS * repeats if count < LONG_STEPS else repeats,
            seconds / SHORT_TURNS,
            not options.quick or count == 16,
        )
        for count in counts
    }
    table("world steps a second", {f"{count} worlds": rates for count, rates in stepping.items()}, steps.RAW)
    for count, rates in stepping.items():
        figures.add("step_tensor_over_raw", ratio(rates, steps.TENSOR, steps.RAW), count)
        figures.add("vector_env_over_raw", ratio(rates, steps.VECTOR, steps.RAW), count)

    count = options.ppo_worlds or (1024 if kind == "cuda" else 64)
    rates = policies.measure(options.world, count, kind, repeats, seconds, singles=True)
    table("world steps a second of PPO", {f"{count} worlds": rates}, policies.ENV)
    figures.add("ppo_over_raw_env", ratio(rates, policies.OURS, policies.ENV))
    figures.add("ppo_over_stock_singles", ratio(rates, policies.OURS, policies.SINGLES))
    figures.add("ppo_over_stock_batch", ratio(rates, policies.OURS, policies.STOCK))
    figures.add("ppo_over_stock_batch_alike", ratio(rates, policies.OURS, policies.STOCK_ALIKE))
    shares = policies.split(BatchPPO, options.world, count, kind, dict(scaled_to(count)))
    figures.values["ppo_time"] = shares
    print("BatchPPO's time: " + ", ".join(f"{what} {share:.1%}" for what, share in shares.items()) + "\n")

    learning = trainings.measure(options.world, kind, repeats, seconds)
    table("images a second of training", learning, trainings.BARE)
    for model, short in (("autoencoder", "ae"), ("detector", "detector")):
        figures.add(f"{short}_over_bare_step", ratio(learning[model], trainings.OURS, trainings.BARE))
        figures.add(f"{short}_over_usual_loop", ratio(learning[model], trainings.OURS, trainings.USUAL))

    started = imports.measure(repeats)
    print("milliseconds: " + ", ".join(f"{what} {ms:.0f}" for what, ms in started.items()) + "\n")
    figures.values["import_ms_over_gymnasium"] = started["import latent_env"]
    figures.values["start_ms"] = started

    if options.scale:
        figures.values["scale"] = scale.measure()
        print(scale.table(figures.values["scale"]) + "\n")
    print(figures)
    if options.json is not None:
        about = {"device": name, "threads": options.threads, "torch": torch.__version__, "repeats": repeats}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps(figures.values | {"about": about}, indent=2) + "\n", encoding="utf-8"
        )


class Figures:
    """What was found, by key; quartiles stand apart, under ``spread``."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"spread": {}}
        self._lines: list[str] = []

    def add(self, key: str, found: Ratio, worlds: int | None = None) -> None:
        """Note a ratio, for so many worlds if it depends on them."""
        spread = [found.low, found.high]
        self._lines.append(f"{key + (f', {worlds} worlds' if worlds else ''):<42}{found}")
        if worlds is None:
            self.values[key], self.values["spread"][key] = found.middle, spread
        else:
            self.values.setdefault(key, {})[str(worlds)] = found.middle
            self.values["spread"].setdefault(key, {})[str(worlds)] = spread

    def __str__(self) -> str:
        return "\n".join(self._lines)


def table(title: str, groups: Mapping[str, Rates], yardstick: str) -> None:
    """Print rates, and how they compare with one of the ways."""
    print(title)
    for group, rates in groups.items():
        for way, values in rates.items():
            print(
                f"  {group:<14}{way:<36}{Ratio.of(values).middle:>10.1f}{ratio(rates, way, yardstick)!s:>30}"
            )
    print()


if __name__ == "__main__":
    main()
