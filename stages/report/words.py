"""Figures in words and numbers as people write them."""

from __future__ import annotations

import math

NARROW = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

METRICS = {
    "image_AUROC": ("Image AUROC", "how often an anomalous image scores above a normal one"),
    "image_AP": ("Image AP", "precision, on average, while all anomalous images are found"),
    "image_F1Max": ("Image F1, best", "precision and recall at the best threshold for these test images"),
    "pixel_AUROC": ("Pixel AUROC", "how often an anomalous pixel scores above a normal one"),
    "pixel_AP": ("Pixel AP", "precision, on average, while all anomalous pixels are found"),
    "pixel_AUPRO": (
        "Pixel AUPRO",
        "how much of each anomalous region is found while few pixels are false alarms",
    ),
    "labelled_AUROC": (
        "AUROC of labelled anomalies",
        "how often one scores above a normal validation image, by a detector that didn't learn from it",
    ),
    "false_alarms": ("False alarms", "the share of normal test images that are called anomalies"),
}
"""Names of metrics, and what each measures."""


def metric_name(metric: str) -> str:
    """A metric's name for people."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def figure(value: float) -> str:
    """A metric with three digits: .942, or 1.000."""
    if math.isnan(value):
        return "undefined"
    text = f"{abs(value):.3f}".removeprefix("0")
    return f"{MINUS}{text}" if value < 0 and float(text) else text


def signed(value: float) -> str:
    """A difference with its sign: +.015, −.032, or .000."""
    text = figure(value)
    return f"+{text}" if value > 0 and float(text) else text


def percent(share: float) -> str:
    """A share as a percentage, with as many digits as it takes to tell small ones apart."""
    digits = 1 if share >= 0.001 or share == 0 else 3
    return f"{100 * share:.{digits}f}{NARROW}%".replace(".0\N{NO-BREAK SPACE}", "\N{NO-BREAK SPACE}")


def counted(count: int, one: str, more: str = "") -> str:
    """A number with its noun: 1 image, 12,000 images."""
    return f"{count:,}{NARROW}{one if count == 1 else more or one + 's'}"


def interval(low: float, high: float) -> str:
    """Both ends of an interval of a difference."""
    return f"{signed(low)} to {signed(high)}"


def change(metric: str, before: float, after: float, between: tuple[float, float] | None) -> str:
    """What became of a metric, and whether it may be chance."""
    name = metric_name(metric)
    if math.isnan(before) or math.isnan(after):
        return f"{name} is undefined: the test images are all of one class."
    if figure(before) == figure(after):
        found = f"{name} stayed at {figure(after)}"
    else:
        found = f"{name} {'rose' if after > before else 'fell'} from {figure(before)} to {figure(after)}"
    if between is None:
        return f"{found}; no interval was computed."
    if not any(between):
        return f"{found}: the same for every choice among these test images."
    return f"{found}; 95{NARROW}% interval of the difference {interval(*between)}: {conclusion(*between)}."


def conclusion(low: float, high: float) -> str:
    """What a 95 % interval of a difference allows to say."""
    if math.isnan(low) or math.isnan(high):
        return "nothing can be compared"
    if low > 0:
        return "better, beyond what the choice of test images explains"
    if high < 0:
        return "worse, beyond what the choice of test images explains"
    return "no difference" if low == high == 0 else "may be chance"


def headline(low: float, high: float) -> str:
    """What an interval of a difference from ``low`` to ``high`` says, for a title."""
    if math.isnan(low) or math.isnan(high):
        return "nothing to compare"
    if low > 0:
        return "better with augmentation"
    return "worse with augmentation" if high < 0 else "no difference that can be shown"


def sentence(text: str) -> str:
    """A text with a capital at its beginning and a stop at its end."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
