"""Parts of RESULTS.md: what every agent reached, and detectors that no agent changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.comparisons import AGAINST
from benchmarks.augmentation.findings import Findings
from benchmarks.augmentation.plotting import MAIN_METRIC, PIXELS
from benchmarks.augmentation.tables import DEFAULT, USUAL_AGENTS
from benchmarks.augmentation.wording import cell, spread, table


def means(findings: Findings) -> Iterator[str]:
    """What every agent reached, on average over seeds."""
    shown = (*USUAL_AGENTS, findings.focus)
    for metric in (MAIN_METRIC, PIXELS):
        rows = [row for row in findings.usual if row.run.agent in shown and known(row, metric)]
        if not rows:
            continue
        yield f"## {metric} of agents"
        yield "Mean ± standard deviation over seeds (number of seeds)."
        for place in findings.heads:
            own = [row for row in rows if (row.run.setting, row.run.track) == place]
            if own:
                yield f"### {place[0]}, {place[1]}, {metric}"
                yield mean_table(own, metric)


def known(row: Row, metric: str) -> bool:
    """Whether a run has a metric."""
    return math.isfinite(row.value(metric))


def mean_table(rows: Sequence[Row], metric: str) -> str:
    """Data sets against agents."""
    agents = list(dict.fromkeys(row.run.agent for row in rows))
    lines = []
    for dataset in dict.fromkeys(row.run.dataset for row in rows):
        cells = []
        for agent in agents:
            own = [row for row in rows if (row.run.dataset, row.run.agent) == (dataset, agent)]
            cells.append(spread([row.value(metric) for row in own]))
        lines.append([dataset, *cells])
    return table(["data set", *agents], lines)


def other_agents(findings: Findings) -> Iterator[str]:
    """How all agents did that the verdict doesn't name."""
    focus = findings.focus
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in findings.usual:
        if row.run.agent not in (*AGAINST, focus):
            run = row.run
            groups.setdefault((run.setting, run.track, run.dataset, run.agent), []).append(row)
    if not groups:
        return
    yield f"By {MAIN_METRIC}, paired by seed."
    found: dict[tuple[str, ...], str] = {
        (*each.place[:3], each.agent, each.against): cell(each.estimate)
        for each in findings.comparisons
        if (each.variant, each.metric) == (DEFAULT, MAIN_METRIC)
    }
    lines = []
    for (*place, agent), rows in groups.items():
        pairs = ((agent, "none"), (agent, "random"), (focus, agent))
        own = spread([row.value(MAIN_METRIC) for row in rows])
        lines.append([*place, agent, own, *(found.get((*place, *pair), "") for pair in pairs)])
    header = ["setting", "track", "data set", "agent", MAIN_METRIC, "minus none", "minus random"]
    yield table([*header, f"{focus} minus it"], lines)


def baselines(findings: Findings) -> Iterator[str]:
    """Detectors that learn from normal images alone, on the same images."""
    known_rivals = {name for row in findings.whole for name in row.baselines}
    chosen = [each for each in findings.of_focus(MAIN_METRIC) if each.against in known_rivals]
    if not chosen:
        return
    yield "## Rivals that learn from normal images alone"
    yield f"The rival's own {MAIN_METRIC}, and the detector of {findings.focus} minus it."
    lines = []
    for each in chosen:
        values = [
            row.baselines[each.against][MAIN_METRIC]
            for row in findings.whole
            if row.run.agent == each.agent
            and (row.run.setting, row.run.track, row.run.dataset, row.run.variant) == each.place
            and MAIN_METRIC in row.baselines.get(each.against, {})
        ]
        place = [each.setting, each.track, each.dataset, each.against]
        lines.append([*place, spread(values), cell(each.estimate)])
    yield table(["setting", "track", "data set", "rival", "rival's own", f"{findings.focus} minus it"], lines)
