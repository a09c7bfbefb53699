"""From the runs' folders to results and columns: everything that the report says comes from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.augmentation.choices import AGENTS, DEFAULT, FOCUS, GENERATOR, REFERENCE
from benchmarks.cases import Outcome
from benchmarks.differences import Pair, Result, Results

REPORT = "report.json"
NOT_FACTS = ("metrics", "baselines", "seed")


def results_of(outcome: Outcome) -> list[Result]:
    """The retrained detector of a run, and the detectors that stand beside it and that no agent changes."""
    report, case = outcome.read(REPORT), outcome.case
    own = {name: values["with"] for name, values in report["metrics"].items() if values["with"] is not None}
    return [
        Result(case.place, case.method, case.seed, own, *outcome.scores("with")),
        *(
            Result(case.place, name, case.seed, metrics)
            for name, metrics in baselines_of(report, list(report["metrics"])).items()
        ),
    ]


def baselines_of(report: Mapping[str, Any], metrics: list[str]) -> dict[str, dict[str, float]]:
    """Metrics of the other detectors on the same images, by their names."""
    found: dict[str, dict[str, float]] = {}
    for key, value in report["baselines"].items():
        for metric in metrics:
            if key.endswith(f"_{metric}") and value is not None:
                found.setdefault(key.removesuffix(f"_{metric}"), {})[metric] = float(value)
    return found


def pairs_of(results: Results) -> list[Pair]:
    """In every place one agent minus all other methods, and in a variant every agent minus its default.

    The one is PPO, or where it wasn't run the last agent that was. With a generator the other agents, which
    then are sources of samples, are compared with none too.
    """
    pairs: list[Pair] = []
    for place in results.places():
        methods = results.methods_of(place)
        agents = [name for name in methods if name in AGENTS]
        focus = FOCUS if FOCUS in agents else agents[-1]
        pairs += [((place, focus), (place, name)) for name in methods if name != focus]
        if place[0] == GENERATOR and REFERENCE in agents:
            others = [name for name in agents if name not in (focus, REFERENCE)]
            pairs += [((place, name), (place, REFERENCE)) for name in others]
        usual = (*place[:3], DEFAULT)
        if place != usual:
            pairs += [((place, name), (usual, name)) for name in agents if (usual, name) in results.methods]
    return pairs


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """Columns of ``runs.csv``: metrics without and with samples, other detectors, what the run counted."""
    report = outcome.read(REPORT)
    before = {f"{name}_without": values["without"] for name, values in report["metrics"].items()}
    after = {name: values["with"] for name, values in report["metrics"].items()}
    counted = {name: value for name, value in report.items() if name not in NOT_FACTS}
    numbers = {name: value for name, value in counted.items() if isinstance(value, int | float)}
    return {**before, **after, **numbers, **report["baselines"]}
