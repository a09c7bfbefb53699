"""The tables of :mod:`benchmarks.learners`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.augmentation.statistics import over_seeds
from latent_common.artifacts import read_json, write_atomically, write_json

Row = dict[str, Any]
RESULTS = "RESULTS.json"
SOLVED = -250.0
NEARLY = 0.9
"""The share of the diffusion model's class accuracy that the best learner is meant to reach."""

ORDER = ("ppo", "reinforce", "actor_critic", "mpo", "decision_transformer")
FIGURES = {
    "artist_accuracy": "class accuracy",
    "artist_frechet": "Fréchet distance",
    "artist_diversity": "diversity",
    "artist_steps": "steps an image",
}


def read_rows(folder: Path) -> list[Row]:
    """The rows of the ``RESULTS.json`` that is there already, if any."""
    path = folder / RESULTS
    return list(read_json(path)["runs"]) if path.is_file() else []


def merged(earlier: Sequence[Row], later: Sequence[Row]) -> list[Row]:
    """One row for each training: the ``later`` one, where there are two. In an order that stays."""
    known = {(row["task"], row["agent"], row["seed"]): row for row in (*earlier, *later)}
    return [known[key] for key in sorted(known)]


def write_report(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``RESULTS.md`` and ``RESULTS.json`` of what is measured so far."""
    write_json(folder / RESULTS, {"runs": list(rows)})
    parts = ["# Five learners", "Written by `python -m benchmarks.learners`; means over seeds."]
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        parts += pendulum(of_task) if task == "pendulum" else images(task, of_task)
    write_atomically(folder / "RESULTS.md", ("\n\n".join(parts) + "\n").encode())


def of_agents(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every agent that has any, by seed."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    found = {agent: [row for row in ordered if row["agent"] == agent] for agent in ORDER}
    return {agent: of_agent for agent, of_agent in found.items() if of_agent}


def values(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """One figure of every row."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def interval(differences: NDArray[np.float64]) -> str:
    """A mean with its 95 % interval over seeds, as far as there are enough."""
    found = over_seeds(differences)
    around = "" if found.low is None else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{around}"


def pendulum(rows: Sequence[Row]) -> list[str]:
    """Whether each learner solves Pendulum-v1."""
    lines = ["| learner | steps | mean return | worst seed | untrained | solved |", f"|{' --- |' * 6}"]
    for agent, of_agent in of_agents(rows).items():
        paid = values(of_agent, "return")
        solved = f"{(paid > SOLVED).sum()} of {len(paid)}"
        before = values(of_agent, "untrained_return").mean()
        steps = f"{int(of_agent[0]['steps']):,}"
        lines.append(
            f"| {agent} | {steps} | {paid.mean():.0f} | {paid.min():.0f} | {before:.0f} | {solved} |"
        )
    said = (
        f"Solved: a mean return above {SOLVED:.0f} over 20 episodes of the deterministic policy. The "
        "decision transformer's steps are recorded ones, played by the PPO and the MPO of the same seed."
    )
    return ["## Pendulum-v1", "\n".join(lines), said]


def images(task: str, rows: Sequence[Row]) -> list[str]:
    """What each learner's images are worth."""
    header = ["learner", "seeds", "return", "return - untrained", *FIGURES.values(), "accuracy / diffusion's"]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    shares = {}
    for agent, of_agent in of_agents(rows).items():
        paid, before = values(of_agent, "artist_return"), values(of_agent, "untrained_return")
        shares[agent] = float(values(of_agent, "artist_accuracy").mean()) / float(
            values(of_agent, "diffusion_accuracy").mean()
        )
        cells = [agent, str(len(of_agent)), f"{paid.mean():.3f}", interval(paid - before)]
        cells += [f"{values(of_agent, name).mean():.3f}" for name in FIGURES]
        lines.append(f"| {' | '.join(cells)} | {shares[agent]:.3f} |")
    of_diffusion = [values(rows, f"diffusion_{name.removeprefix('artist_')}") for name in list(FIGURES)[:3]]
    shown = " | ".join(f"{each.mean():.3f}" for each in of_diffusion)
    lines.append(f"| plain diffusion | | | | {shown} | | |")
    best = max(shares, key=lambda agent: shares[agent])
    reached = "reached" if shares[best] >= NEARLY else "not reached"
    said = (
        f"The best learner by class accuracy, {best}, has {shares[best]:.3f} of that of plain diffusion, "
        f"{NEARLY:.1f} was wanted: {reached}. Diffusion's line is the mean over all runs, each with as many "
        "gradient steps and a network of the same layers as the learner beside it. Fréchet distance and "
        "diversity (1: as varied as real images) are in the eyes of a classifier. Where the interval of the "
        "return's difference holds zero, it can't be told whether the learner has learned."
    )
    return [f"## LatentDenoise-v0 on {task}", "\n".join(lines), said]
