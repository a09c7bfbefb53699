"""The files of a report: RESULTS.md, RESULTS.json and two CSV files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.findings import Findings
from benchmarks.augmentation.sections import markdown
from latent_common.artifacts import write_atomically

DISCUSSION = "DISCUSSION.md"
"""Written by hand, beside the report; opens it."""


def write_report(out: Path, findings: Findings) -> Path:
    """Write all files; returns where RESULTS.md is."""
    discussion = out / DISCUSSION
    said = discussion.read_text(encoding="utf-8").strip() if discussion.is_file() else ""
    text = markdown(findings, said)
    write_atomically(out / "RESULTS.md", text.encode())
    write_atomically(out / "RESULTS.json", (json.dumps(as_json(findings), indent=1) + "\n").encode())
    write_atomically(out / "runs.csv", table_file([flat_run(row) for row in findings.rows]).encode())
    flat = [without_nan(each.flat()) for each in findings.comparisons]
    write_atomically(out / "comparisons.csv", table_file(flat).encode())
    return out / "RESULTS.md"


def as_json(findings: Findings) -> dict[str, Any]:
    """Everything as plain values; what isn't known is null."""
    return without_nan(
        {
            "command": findings.command,
            "commit": findings.commit,
            "comparisons": [each.flat() for each in findings.comparisons],
            "runs": [run_facts(row) for row in findings.rows],
        }
    )


def identity(row: Row) -> dict[str, Any]:
    """What names a run."""
    run = row.run
    return {
        "setting": run.setting,
        "track": run.track,
        "dataset": run.dataset,
        "agent": run.agent,
        "seed": run.seed,
        "variant": run.variant,
        "state": row.outcome.state,
    }


def run_facts(row: Row) -> dict[str, Any]:
    """A run without its folder."""
    return {
        **identity(row),
        "metrics": row.metrics,
        "baselines": row.baselines,
        "facts": row.facts,
        "seconds": row.outcome.seconds,
        "error": row.outcome.error,
        "commit": row.outcome.commit,
        "overrides": list(row.run.overrides),
    }


def flat_run(row: Row) -> dict[str, Any]:
    """A run as a line of a table."""
    metrics = {
        f"{metric}_{which}": value
        for metric, values in row.metrics.items()
        for which, value in values.items()
    }
    ends = {"seconds": row.outcome.seconds, "error": row.outcome.error}
    return without_nan({**identity(row), **metrics, **flattened(row.facts), **ends})


def flattened(facts: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested facts as ``a.b``."""
    found: dict[str, Any] = {}
    for key, value in facts.items():
        found |= flattened(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table_file(lines: Sequence[dict[str, Any]]) -> str:
    """Lines as CSV, with every column that some line has."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
