"""How fast steps, PPO and trainings are next to the least that they could cost.

Both sides of every ratio take turns in one process, so that a busy machine slows both down alike. Printed are
medians over the repeats, with quartiles.

  steps      a step of N worlds by each interface, over the frozen networks alone
  ppo        PPO from end to end, over the worlds alone and over stock PPO
  trainings  training of autoencoder and detector, over the bare step and over a DataLoader
  generator  a step that a published generator draws and a backbone sees, over these networks alone
  backbone   features of a backbone, over those of the network as it was trained
  metrics    metrics of pixels, over those of a curve through all pixels
  imports    imports, the first environment and its first step, in milliseconds
  scale      how the cost of a step and its memory grow with worlds, pixels, latents and images

Examples:
  python -m benchmarks.speed --quick
  python -m benchmarks.speed --parts steps --worlds 64 1024 --json speed.json
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from agents.learners.batch_ppo import BatchPPO, scaled_to
from benchmarks.speed import backbone, generator, imports, metrics, policies, scale, steps, trainings
from benchmarks.speed.timing import Ratio, ratio
from latent_common.machine import cores, resolve_device

WORLDS, QUICK_WORLDS = [1, 16, 64, 256, 1024], [16, 64]
ON_GPU = 4096
PPO_WORLDS, PPO_WORLDS_ON_GPU = 64, 1024
GENERATOR_WORLDS, SIZE, QUICK_SIZE, BACKBONE_SIZE = 64, 128, 64, 224
SHORT_TURNS, LONG_STEPS = 4, 1024


class Figures:
    """What was found, by name; quartiles stand apart, under ``quartiles``."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"quartiles": {}}

    def add(self, name: str, found: Ratio, worlds: int | None = None) -> None:
        """Note and print a ratio, for so many worlds if it depends on them."""
        print(f"{name + (f', {worlds} worlds' if worlds else ''):<42}{found}")
        ends = [found.low, found.high]
        if worlds is None:
            self.values[name], self.values["quartiles"][name] = found.middle, ends
        else:
            self.values.setdefault(name, {})[str(worlds)] = found.middle
            self.values["quartiles"].setdefault(name, {})[str(worlds)] = ends


def measure_steps(options: argparse.Namespace, figures: Figures) -> None:
    """A step by each interface, for all numbers of worlds."""
    for count in options.worlds:
        # Many short turns: what slows the machine down for a while then meets all sides alike.
        turns = SHORT_TURNS * options.repeats if count < LONG_STEPS else options.repeats
        rates = steps.measure(options.world, count, options.device, turns, options.seconds / SHORT_TURNS)
        print_rates(f"world steps a second, {count} worlds", rates, steps.RAW)
        for way, name in (
            (steps.TENSOR, "step_tensor"),
            (steps.VECTOR, "vector_env"),
            (steps.VEC, "sb3_vec_env"),
        ):
            figures.add(f"{name}_over_networks", ratio(rates, way, steps.RAW), count)


def measure_ppo(options: argparse.Namespace, figures: Figures) -> None:
    """PPO, and what its time is spent on."""
    count = options.ppo_worlds
    rates = policies.measure(options.world, count, options.device, options.repeats, options.seconds)
    print_rates(f"world steps a second of PPO, {count} worlds", rates, policies.ENV)
    figures.add("ppo_over_worlds_alone", ratio(rates, policies.OURS, policies.ENV))
    figures.add("ppo_over_stock_on_single_worlds", ratio(rates, policies.OURS, policies.SINGLES))
    figures.add("ppo_over_stock_on_the_batch", ratio(rates, policies.OURS, policies.STOCK))
    figures.add("ppo_over_stock_with_our_settings", ratio(rates, policies.OURS, policies.STOCK_ALIKE))
    shares = policies.split_time(BatchPPO, options.world, count, options.device, dict(scaled_to(count)))
    figures.values["ppo_time"] = shares
    print("PPO's time: " + ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))


def measure_trainings(options: argparse.Namespace, figures: Figures) -> None:
    """Training of autoencoder and detector."""
    found = trainings.measure(options.world, options.device, options.repeats, options.seconds)
    for model, rates in found.items():
        print_rates(f"images a second, training an {model}", rates, trainings.BARE)
        figures.add(f"{model}_over_bare_step", ratio(rates, trainings.OURS, trainings.BARE))
        figures.add(f"{model}_over_data_loader", ratio(rates, trainings.OURS, trainings.LOADER))


def measure_generator(options: argparse.Namespace, figures: Figures) -> None:
    """A step in a world with a published generator and a backbone."""
    for count in options.generator_worlds:
        rates = generator.measure(
            count, options.generator_size, options.device, options.repeats, options.seconds
        )
        title = f"world steps a second, generator, {options.generator_size} pixels, {count} worlds"
        print_rates(title, rates, steps.RAW)
        figures.add("generator_step_over_networks", ratio(rates, steps.TENSOR, steps.RAW), count)


def measure_backbone(options: argparse.Namespace, figures: Figures) -> None:
    """Features of a backbone."""
    rates = backbone.measure(options.backbone_size, options.device, options.repeats, options.seconds)
    print_rates(f"images a second, {options.backbone_size} pixels", rates, backbone.WHOLE)
    figures.add("backbone_over_network_as_trained", ratio(rates, backbone.OURS, backbone.WHOLE))


def measure_metrics(options: argparse.Namespace, figures: Figures) -> None:
    """Metrics of pixels."""
    rates = metrics.measure(options.backbone_size, options.repeats, options.seconds)
    print_rates(f"maps a second, {options.backbone_size} pixels", rates, metrics.WHOLE)
    figures.add("metrics_over_whole_curve", ratio(rates, metrics.OURS, metrics.WHOLE))


def measure_imports(options: argparse.Namespace, figures: Figures) -> None:
    """Imports and a first environment."""
    found = imports.measure(options.repeats)
    figures.values["start_ms"] = found
    print("milliseconds: " + ", ".join(f"{what} {ms:.0f}" for what, ms in found.items()))


def measure_scale(options: argparse.Namespace, figures: Figures) -> None:
    """How cost grows, always in processes of their own with one thread on the CPU."""
    del options
    figures.values["scale"] = scale.measure()
    print(scale.as_text(figures.values["scale"]))


PARTS: dict[str, Callable[[argparse.Namespace, Figures], None]] = {
    "steps": measure_steps,
    "ppo": measure_ppo,
    "trainings": measure_trainings,
    "generator": measure_generator,
    "backbone": measure_backbone,
    "metrics": measure_metrics,
    "imports": measure_imports,
    "scale": measure_scale,
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = [name for name in PARTS if name not in ("generator", "backbone", "metrics", "scale")]
    text = f"what is measured (default {' '.join(usual)})"
    made.add_argument("--parts", nargs="+", choices=PARTS, default=usual, help=text)
    made.add_argument("--quick", action="store_true", help="fewer worlds and repeats: some five minutes")
    made.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    made.add_argument("--world", default="phantom", help="a built-in world or a folder of artifacts")
    text = f"numbers of worlds (default {' '.join(map(str, WORLDS))}, and {ON_GPU} on a GPU)"
    made.add_argument("--worlds", type=int, nargs="+", metavar="N", help=text)
    text = f"worlds of PPO (default {PPO_WORLDS}, on a GPU {PPO_WORLDS_ON_GPU})"
    made.add_argument("--ppo-worlds", type=int, metavar="N", help=text)
    made.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch (default 1)")
    made.add_argument("--repeats", type=int, metavar="N", help="turns of each side (default 5, quick 3)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the figures."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    on_gpu = device.type == "cuda"
    options.device = device.type
    usual = [*(QUICK_WORLDS if options.quick else WORLDS), *([ON_GPU] if on_gpu else [])]
    options.worlds = options.worlds or usual
    options.ppo_worlds = options.ppo_worlds or (PPO_WORLDS_ON_GPU if on_gpu else PPO_WORLDS)
    options.generator_worlds = [2] if options.quick else [GENERATOR_WORLDS]
    options.generator_size = QUICK_SIZE if options.quick else SIZE
    options.backbone_size = QUICK_SIZE if options.quick else BACKBONE_SIZE
    options.repeats = options.repeats or (3 if options.quick else 5)
    options.seconds = 0.5 if options.quick else 2.0
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU"
    threads = f"{options.threads} of {cores()} threads"
    print(f"{name}, {threads}, torch {torch.__version__}, world {options.world}")
    figures = Figures()
    for part in options.parts:
        print()
        PARTS[part](options, figures)
    if options.json is not None:
        about = {"device": name, "threads": options.threads, "torch": torch.__version__}
        content = {**figures.values, "about": {**about, "repeats": options.repeats}}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def print_rates(title: str, rates: Mapping[str, list[float]], against: str) -> None:
    """Print the rates of all ways, and their ratios to one of them."""
    print(title)
    for way, values in rates.items():
        print(f"  {way:<36}{Ratio.of(values).middle:>10.1f}{ratio(rates, way, against)!s:>30}")


if __name__ == "__main__":
    main()
