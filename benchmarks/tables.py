"""Numbers as cells of a table, and rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectors.metrics.intervals import Estimate


def number(value: float, sign: str = "") -> str:
    """Four decimals, or one for numbers from ten on; ``sign="+"`` shows it of positive ones too."""
    return f"{value:{sign}.{4 if abs(value) < 10 else 1}f}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean, and the standard deviation where there are several values."""
    if not values:
        return ""
    deviation = f" ± {number(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return number(float(np.mean(values))) + deviation


def difference(estimate: Estimate | None) -> str:
    """A mean difference with its interval; bold if that excludes zero."""
    if estimate is None:
        return ""
    text = number(estimate.mean, "+")
    if estimate.low is not None and estimate.high is not None:
        text += f" ({number(estimate.low, '+')} to {number(estimate.high, '+')})"
    return f"**{text}**" if estimate.excludes_zero else text


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with every column that some row has; what isn't known is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _unknown(value) else value for name, value in row.items()} for row in rows)
    return buffer.getvalue()


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
