"""The tables of :mod:`benchmarks.one_class`, beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.augmentation.statistics import over_seeds
from benchmarks.augmentation.wording import cell
from latent_common.artifacts import read_json, write_atomically, write_json

SHARE = 0.3
"""Of anomalies in the mix that published figures are on."""

Row = dict[str, Any]

PUBLISHED = {
    "mnist": {"AE": 0.9619, "MemAE without sparsity": 0.9725, "MemAE": 0.9751},
    "cifar10": {"AE": 0.5706, "MemAE": 0.6088},
}
"""Mean AUROC over ten classes on the 30 % mix (Gong et al. 2019)."""

WANTED = {"mnist": 0.98, "cifar10": 0.62}
"""What the best form with a memory is meant to reach there."""

PLAIN, MEMORY = "ae", ("memae", "memvae")
MIXES = {"mix": f"{SHARE:.0%} anomalies", "one_against_rest": "one against the rest"}


FILE = "one_class.json"


def known_rows(folder: Path, quick: bool) -> list[Row]:
    """The rows of a report that is there already, if it is of the same kind."""
    path = folder / FILE
    facts: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return list(facts["rows"]) if facts.get("quick") == quick else []


def write_report(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write ``one_class.md`` and ``one_class.json`` of what is measured so far.

    :param facts: ``command``, whether it was ``quick``, and how many trainings are ``missing``.
    """
    write_json(folder / FILE, {"rows": list(rows), **facts, "published": PUBLISHED})
    write_atomically(folder / "one_class.md", report(rows, facts).encode())


def report(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    quick = facts["quick"]
    commits = dict.fromkeys(str(row["commit"]) for row in rows)
    parts = [
        "# One class as normal: AUROC of the reconstruction error",
        f"```\n{facts['command']}\n```",
        f"Commit {', '.join(commits)}.",
    ]
    if quick:
        parts.append("A look (`--quick`): hardly trained, these figures say nothing about the forms.")
    if facts["missing"]:
        parts.append(f"Not finished: {facts['missing']} trainings are missing.")
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        of_set = [row for row in rows if row["dataset"] == dataset]
        parts.append(f"## {dataset}\n\n`{' '.join(of_set[-1]['keys'])}`")
        for mix, name in MIXES.items():
            parts.append(f"### {name[0].upper()}{name[1:]}\n\n{table(of_set, mix)}")
        if not quick:
            parts += verdict(str(dataset), of_set)
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Row], mix: str) -> str:
    """A line a class, a column a form: means over seeds; below, their mean over classes."""
    forms = list(dict.fromkeys(str(row["form"]) for row in rows))
    classes = sorted({int(row["normal"]) for row in rows})
    lines = [f"| normal | {' | '.join(forms)} |", f"| --- |{' --- |' * len(forms)}"]
    for normal in classes:
        cells = []
        for form in forms:
            values = [float(r[mix]) for r in rows if r["form"] == form and r["normal"] == normal]
            cells.append(f"{np.mean(values):.4f}" if values else "")
        lines.append(f"| {normal} | {' | '.join(cells)} |")
    means = [over_classes(rows, form, mix) for form in forms]
    cells = [
        f"{mean.mean():.4f} ± {mean.std(ddof=1):.4f}" if len(mean) > 1 else f"{mean.mean():.4f}"
        for mean in means
    ]
    seeds = len({row["seed"] for row in rows})
    lines.append(f"| mean | {' | '.join(cells)} |")
    said = f"Seeds: {seeds}; ± is the deviation of the mean between seeds."
    if PLAIN in forms and len(forms) > 1:
        plain = means[forms.index(PLAIN)]
        gains = [over_seeds(mean - plain) if len(mean) == len(plain) else None for mean in means]
        cells = [cell(gain) if form != PLAIN else "" for form, gain in zip(forms, gains, strict=True)]
        lines.append(f"| minus {PLAIN} | {' | '.join(cells)} |")
        said += (
            f" Minus {PLAIN}: paired by seed, from three seeds on with a 95 % interval, bold if without zero."
        )
    return "\n".join([*lines, "", said])


def over_classes(rows: Sequence[Row], form: str, mix: str) -> NDArray[np.float64]:
    """The mean over classes for each seed ``(S,)`` that has all of them, else of what there is."""
    own = [row for row in rows if row["form"] == form]
    classes = {row["normal"] for row in own}
    by_seed = [[row for row in own if row["seed"] == seed] for seed in sorted({int(r["seed"]) for r in own})]
    whole = [part for part in by_seed if {row["normal"] for row in part} == classes]
    return np.array([np.mean([float(row[mix]) for row in part]) for part in whole or [own]])


def verdict(dataset: str, rows: Sequence[Row]) -> list[str]:
    """The published figures, and whether what was wanted is reached; nothing unless all classes are there."""
    known = PUBLISHED.get(dataset)
    measured = {str(row["form"]) for row in rows}
    classes = {form: {row["normal"] for row in rows if row["form"] == form} for form in measured}
    if known is None or any(len(found) < 10 for found in classes.values()):
        return []
    figures = ", ".join(f"{name} {value:.4f}" for name, value in known.items())
    lines = [f"Published, {MIXES['mix']}: {figures}."]
    means = {form: float(over_classes(rows, form, "mix").mean()) for form in measured}
    with_memory = [form for form in MEMORY if form in measured]
    if not with_memory:
        return lines
    best = max(with_memory, key=lambda form: means[form])
    wanted = WANTED[dataset]
    said = _reached(means[best], wanted)
    lines.append(f"Best form with a memory: {best}, {means[best]:.4f}; {wanted:.2f} is {said}.")
    if PLAIN in measured:
        gain, published = means[best] - means[PLAIN], known["MemAE"] - known["AE"]
        said = _reached(gain, published)
        lines.append(f"Over the plain form: {gain:+.4f}; the published {published:+.4f} is {said}.")
    return lines


def _reached(value: float, wanted: float) -> str:
    return "reached" if value >= wanted else "not reached"
