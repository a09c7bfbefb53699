"""RESULTS.md part by part, in words that any numbers make true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.comparisons import AGAINST, Comparison
from benchmarks.augmentation.figures import CASES, CURVE, FOREST, LEARNING, SAMPLES
from benchmarks.augmentation.findings import Findings
from benchmarks.augmentation.mixtures import mixtures_of
from benchmarks.augmentation.opinions import ensemble_section
from benchmarks.augmentation.plan import commands
from benchmarks.augmentation.plotting import MAIN_METRIC, PIXELS
from benchmarks.augmentation.records import FAILED
from benchmarks.augmentation.standings import baselines, means, other_agents
from benchmarks.augmentation.tables import DEFAULT
from benchmarks.augmentation.wording import cell, code, count, one_line, spread, table

ASKED = """\
The question: is a detector that also learns from an agent's samples better than one that doesn't, and
better than one that learns from random changes, under the same decoder, budget and test images? Every run
is one `train_ppo.py`. Values are those of the retrained detector on the test split. Agent `none` changes
nothing and is the reference; `none (cutpaste)` and `none (perlin)` change nothing either, and learn from
one kind of image-space anomaly alone. Differences are paired by seed."""

MEASURED = """\
Intervals are 95 % and not corrected for how many there are. Those of image_AUROC and image_AP come from a
bootstrap over seeds and test images, whose part over seeds is widened because there are few of them; with
one seed they are over images alone, and the luck of training isn't in them. Those of other metrics, of
differences to rivals, and of runs that kept no scores are Student's over seeds, and there are none for
fewer than 3. **Bold**: the interval excludes zero."""


def markdown(findings: Findings, discussion: str) -> str:
    """The report for people."""
    parts = ["# Does augmentation by an agent help?"]
    if discussion:
        parts.append(discussion)
    parts += [
        *asked(findings),
        *verdicts(findings),
        *pictures(findings, FOREST),
        *of_pixels(findings),
        *means(findings),
        *section("Other agents", other_agents(findings)),
        *baselines(findings),
        *section("A second opinion", ensemble_section(findings)),
        *section("What each source does by itself", by_themselves(findings)),
        *section("Learning curves", pictures(findings, LEARNING)),
        *section("Variants", [*variants(findings), *pictures(findings, CURVE)]),
        *section("What agents make", pictures(findings, SAMPLES)),
        *section("Where the detector is most wrong, and surest", pictures(findings, CASES)),
        *unfinished(findings),
        "## All runs as commands",
        "Where things lie is left out: `data_root=`, `runs=`, and `autoencoder.backbone=` for pretrained.",
        code(commands([replace(row.run, place=()) for row in findings.rows])),
    ]
    return "\n\n".join(parts) + "\n"


def section(title: str, parts: Iterable[str]) -> list[str]:
    """A part of the report, if there is anything in it."""
    parts = list(parts)
    return [f"## {title}", *parts] if parts else []


def asked(findings: Findings) -> Iterator[str]:
    """What was asked, how it was measured, and of what code."""
    states = Counter(row.outcome.state for row in findings.rows)
    seconds = sum(row.outcome.seconds or 0 for row in findings.whole)
    yield ASKED
    yield MEASURED
    counted = ", ".join(f"{number} {state}" for state, number in states.items())
    yield (
        f"{count(len(findings.rows), 'run')}: {counted}. The complete ones took {seconds / 3600:.1f} hours, "
        "as far as that was noted."
    )
    made = Counter(row.outcome.commit or "a commit that wasn't noted" for row in findings.whole)
    by = ", ".join(f"{count(number, 'run')} at {name}" for name, number in made.items()) or "none"
    yield code([findings.command, "", f"report at commit {findings.commit}", f"complete: {by}"])
    if findings.remarks:
        yield "\n".join(f"- {remark}" for remark in findings.remarks)


def verdicts(findings: Findings, bold: bool = True) -> Iterator[str]:
    """Who is better than whom by the main metric."""
    yield f"## Verdict: {findings.focus} minus others, {MAIN_METRIC}"
    chosen = [each for each in findings.of_focus(MAIN_METRIC) if each.against in AGAINST]
    if not chosen:
        yield f"Nothing to compare: no complete runs of {findings.focus} and another agent for the same seed."
        return
    yield from verdict_tables(findings, chosen, bold)
    yield "\n".join(filter(None, (tally(chosen, against) for against in AGAINST)))


def of_pixels(findings: Findings) -> Iterator[str]:
    """The same by the metric of the map, where there are masks."""
    chosen = [each for each in findings.of_focus(PIXELS) if each.against in AGAINST]
    if chosen:
        yield f"## {findings.focus} minus others, {PIXELS}"
        yield from verdict_tables(findings, chosen, bold=True, of=f", differences of {PIXELS}")


def verdict_tables(
    findings: Findings, chosen: Sequence[Comparison], bold: bool, of: str = ""
) -> Iterator[str]:
    """A table for every setting and track."""
    for place in findings.heads:
        own = [each for each in chosen if each.place[:2] == place]
        if own:
            yield f"### {place[0]}, {place[1]}{of}"
            yield verdict_table(own, bold)


def verdict_table(comparisons: Sequence[Comparison], bold: bool) -> str:
    """Data sets against opponents."""
    others = [name for name in AGAINST if any(each.against == name for each in comparisons)]
    lines = []
    for dataset in dict.fromkeys(each.dataset for each in comparisons):
        own = {each.against: each for each in comparisons if each.dataset == dataset}
        seeds = sorted({each.seeds for each in own.values()})
        cells = [cell(own[name].estimate, bold) if name in own else "" for name in others]
        lines.append([dataset, " or ".join(map(str, seeds)), *cells])
    return table(["data set", "seeds", *(f"minus {name}" for name in others)], lines)


def tally(comparisons: Sequence[Comparison], against: str) -> str:
    """How often the difference to an opponent is above or below zero for sure."""
    estimates = [each.estimate for each in comparisons if each.against == against]
    if not estimates:
        return ""
    above = sum(each.low is not None and each.low > 0 for each in estimates)
    below = sum(each.high is not None and each.high < 0 for each in estimates)
    agent = comparisons[0].agent
    return (
        f"- Compared with {against} {count(len(estimates), 'time')}, {agent} is better in {above} and worse "
        f"in {below} by an interval that excludes zero, and in {len(estimates) - above - below} the interval "
        "holds zero or there is none."
    )


def variants(findings: Findings) -> Iterator[str]:
    """What became of the question with further keys."""
    others = [row for row in findings.whole if row.run.variant != DEFAULT]
    if not others:
        return
    yield (
        f"Values and differences of {MAIN_METRIC}, and of {PIXELS} where there are masks. Agents are "
        "compared within a variant, and with themselves as they are by default, seed by seed: where a "
        "variant takes something away, a number below zero says that it was worth having."
    )
    lines = []
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in others:
        run = row.run
        groups.setdefault((run.variant, run.setting, run.track, run.dataset, run.agent), []).append(row)
    for (variant, *place, agent), rows in groups.items():
        found = {
            (each.metric, each.against): cell(each.estimate)
            for each in findings.comparisons
            if each.place == (*place, variant) and each.agent == agent
        }
        values = [value for row in rows if math.isfinite(value := row.value(PIXELS))]
        wanted = (*((MAIN_METRIC, name) for name in (*AGAINST, DEFAULT)), (PIXELS, DEFAULT))
        *differences, of_pixels = (found.get(each, "") for each in wanted)
        own = spread([row.value(MAIN_METRIC) for row in rows])
        lines.append([variant, *place, agent, own, *differences, spread(values), of_pixels])
    header = ["variant", "setting", "track", "data set", "agent", MAIN_METRIC]
    columns = [*(f"minus {name}" for name in AGAINST), "minus its default"]
    yield table([*header, *columns, PIXELS, f"{PIXELS} minus its default"], lines)


def by_themselves(findings: Findings) -> Iterator[str]:
    """What mixtures gave whether or not they were chosen."""
    found = list(mixtures_of(findings.rows, (MAIN_METRIC, PIXELS)))
    if not found:
        return
    yield (
        "Every run trains a detector on each mixture, from the same weights in the same number of steps, "
        "and the validation split chooses. Here they all are: on the test split, minus the detector without "
        "samples; and in how many runs the mixture was chosen."
    )
    lines = [
        [
            *each.place,
            each.named,
            f"{each.chosen} of {each.seeds}",
            *(cell(each.differences.get(metric)) for metric in (MAIN_METRIC, PIXELS)),
            cell(each.to_random.get(MAIN_METRIC)),
        ]
        for each in found
    ]
    header = ["setting", "track", "data set", "agent", "mixture", "chosen", MAIN_METRIC, PIXELS]
    yield table([*header, f"{MAIN_METRIC} minus that of as many random ones"], lines)


def pictures(findings: Findings, kind: str) -> Iterator[str]:
    """Links to figures."""
    for shown in findings.figures:
        if shown.kind == kind:
            yield f"{shown.caption}\n\n![{shown.caption}]({shown.path.as_posix()})"


def unfinished(findings: Findings) -> Iterator[str]:
    """Runs that failed, and those that were never finished."""
    failed = [row for row in findings.rows if row.outcome.state == FAILED]
    yield "## Runs that failed"
    if failed:
        lines = ([row.run.key, one_line(row.outcome.error or "")] for row in failed)
        yield table(["run", "error"], lines)
    else:
        yield "None."
    others = [row for row in findings.rows if not row.whole and row not in failed]
    if others:
        yield "## Runs without an end"
        yield table(["run", "state"], ([row.run.key, row.outcome.state] for row in others))


def verdict_text(findings: Findings) -> str:
    """The verdict alone, for the terminal."""
    return "\n\n".join(verdicts(findings, bold=False))
