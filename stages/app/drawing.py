"""What the tabs show, as HTML: cards of images, tiles of a step, the terms of a reward, scores on a line."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_env.prediction.detector import AnomalyDetector
from latent_env.prediction.result import Prediction
from latent_env.worlds.thresholds import Decision
from stages.app.inspection import Consequences, Seen, picture
from stages.app.playing import LABELS, Played, Tile, Verdict
from stages.report.markup import Markup, element, joined, paragraph
from stages.report.words import MINUS, counted, percent

QUALITY = 92
"""Of JPEG; without subsampled colours, thin coloured lines stay sharp."""

WIDTH, ROW, LEFT, RIGHT, TOP = 360, 28, 104, 10, 22
"""Of the line of scores, in units: its width, the height of a row, and the margins."""

BAND = 9
"""Dots of one row are spread over so many units up and down, so that equal scores can be told apart."""

VERDICTS = ("normal", "anomaly")


def message(text: str, *more: str) -> Markup:
    """A sentence in place of what can't be shown."""
    return element("div", paragraph(text), *map(paragraph, more), class_="la-message")


def cards(seen: Seen, predictions: Sequence[Prediction], with_maps: bool) -> Markup:
    """A card for each image: its picture, verdict, score, p-value and largest finding."""
    pairs = zip(seen.measured.values(), predictions, strict=True)
    found = [_card(picture(measured, said, with_maps), said) for measured, said in pairs]
    broken = [element("li", reason) for reason in seen.broken.values()]
    parts = [element("div", *found, class_="la-cards")]
    if broken:
        parts.append(element("ul", *broken, class_="la-broken"))
    return joined(parts)


def summary(seen: Seen, predictions: Sequence[Prediction]) -> Markup:
    """How many images are anomalies, in a sentence."""
    if not predictions and not seen.broken:
        return paragraph("Drop images to see what the detector says of them.", class_="la-summary")
    anomalies = sum(said.is_anomaly for said in predictions)
    text = f"{counted(anomalies, 'anomaly', 'anomalies')} in {counted(len(predictions), 'image')}"
    if seen.broken:
        text += f", {counted(len(seen.broken), 'file')} that can't be read"
    if seen.left_out:
        text += f". {seen.left_out} more are not shown: `latent-aug predict` takes any number"
    return paragraph(f"{text}.", class_="la-summary")


def consequences(found: Consequences) -> Markup:
    """What a threshold would do on the validation images, in words."""
    threshold = found.threshold
    normals = f"{found.flagged} of {counted(found.normals, 'normal image')} would be flagged"
    lines = [f"On validation, {normals} ({percent(found.flagged / found.normals)})"]
    if found.anomalies:
        anomalies = counted(found.anomalies, "labelled anomaly", "labelled anomalies")
        lines[0] += f", and {found.found} of {anomalies} found"
    lines[0] += "."
    if threshold.promised is not None:
        lines.append(f"Promised: at most {percent(threshold.promised)} of normal images like these.")
    elif threshold.f1 is not None:
        lines.append(f"F1 on validation {threshold.f1:.2f}; no rate of false alarms is promised.")
    if threshold.note:
        lines.append(f"{threshold.note[:1].upper()}{threshold.note[1:]}.")
    return element("div", *map(paragraph, lines), class_="la-consequences")


def score_line(detector: AnomalyDetector, predictions: Sequence[Prediction]) -> Markup:
    """Scores of validation images and of those that were dropped, as dots, and the threshold as a line."""
    decision, mark = detector.decision, detector.threshold.score
    rows = {f"normal ({len(decision.normal)})": ("normal", decision.normal)}
    if len(decision.anomalous):
        rows[f"anomalies ({len(decision.anomalous)})"] = ("anomaly", decision.anomalous)
    if predictions:
        raw = np.array([said.raw_score for said in predictions], np.float32)
        rows[f"yours ({len(raw)})"] = ("yours", raw)
    low, high = _reach(decision, mark, [scores for _, scores in rows.values()])
    height = TOP + ROW * len(rows) + 6
    x = _across(low, high, np.array([mark]))[0]
    parts = [
        element("path", d=f"M{x:.1f},{TOP - 4}V{height - 4}", class_="la-threshold"),
        element(
            "text",
            "threshold",
            x=f"{x:.1f}",
            y=12,
            text_anchor="end" if x > WIDTH * 0.8 else "start" if x < LEFT + 30 else "middle",
        ),
    ]
    for at, (name, (kind, scores)) in enumerate(rows.items()):
        y = TOP + ROW * at + ROW / 2
        parts.append(element("text", name, x=4, y=y + 4))
        parts.append(element("path", d=f"M{LEFT},{y}H{WIDTH - RIGHT}", class_="la-axis"))
        across = _across(low, high, scores.astype(np.float64))
        for number, place in enumerate(across.tolist()):
            offset = BAND * (((number * 0.618034) % 1) - 0.5) * (len(across) > 1)
            parts.append(
                element("circle", cx=f"{place:.1f}", cy=f"{y + offset:.1f}", r=4, class_=f"la-{kind}")
            )
    label = "Scores of validation images and of yours; those right of the threshold are anomalies"
    return element(
        "svg",
        element("title", label),
        *parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        class_="la-scores",
    )


def outcome(found: Played, left_out: Sequence[str]) -> Markup:
    """What an action made of an image, what the detector says of it, and the reward, term by term."""
    said = (_verdict(found.before), " before, ", _verdict(found.after), " after.")
    moved = (
        f"The latent moved by {found.distance:.2f}. Normal images differ by up to {found.shell.inner:.2f}, "
        f"and {found.shell.outer:.2f} is as far as it may go."
    )
    name, why = LABELS[found.label]
    parts = [
        paragraph("This sample is ", element("b", name), f"{why}."),
        paragraph("Detector: ", *said),
        paragraph(moved),
        _reward(found),
    ]
    if left_out:
        names = ", ".join(left_out)
        parts.append(paragraph(f"Left out, as they come from a module of whoever made the run: {names}."))
    return joined(parts)


def tiles(shown: Sequence[Tile]) -> Markup:
    """Pictures beside and below each other, with their captions."""
    figures = [
        element(
            "figure",
            element("img", src=data_uri(Image.fromarray(each.picture)), alt=each.caption),
            element("figcaption", each.caption),
        )
        for each in shown
    ]
    return element("div", *figures, class_="la-tiles")


def sample(shown: Sequence[Tile], facts: str, rejected: bool) -> Markup:
    """A sample at a size at which a person can judge it."""
    state = element("span", "rejected" if rejected else "kept", class_=f"la-badge {_tone(rejected)}")
    return element("div", paragraph(state, f" {facts}", class_="la-facts"), tiles(shown))


def _card(shown: Image.Image, said: Prediction) -> Markup:
    verdict = VERDICTS[said.is_anomaly]
    finding = said.finding
    where = "nothing found in its map" if finding is None else f"{percent(finding.area)} of it found abnormal"
    image = element("img", src=data_uri(shown), alt=f"{said.name}: {verdict}", loading="lazy")
    name = Path(said.name).name
    return element(
        "figure",
        image,
        element(
            "figcaption",
            element("span", verdict, class_=f"la-badge {_tone(said.is_anomaly)}"),
            element("b", name, title=name),
            element("span", f"score {said.score:.2f} · p = {_p_value(said.p_value)}", class_="la-figures"),
            element("span", where, class_="la-figures"),
        ),
        class_="la-card",
    )


def _reward(found: Played) -> Markup:
    """A table of the terms, with a bar for what each contributes."""
    paid = {term.name: term.weight * term.value for term in found.terms}
    most = max([abs(each) for each in paid.values()] + [abs(found.reward), 1e-6])
    head = element("tr", *(element("th", name) for name in ("term", "value", "× weight", "= pays", "")))
    rows = [
        _paid(term.name.replace("_", " "), _number(term.value), _number(term.weight), paid[term.name], most)
        for term in found.terms
    ]
    total = _paid("reward", "", "", found.reward, most)
    return element("table", element("thead", head), element("tbody", *rows, total), class_="la-reward")


def _paid(name: str, value: str, weight: str, pays: float, most: float) -> Markup:
    tone = "la-loss" if pays < 0 else "la-gain"
    bar = element("span", style=f"width:{100 * abs(pays) / most:.1f}%", class_=f"la-bar {tone}")
    cells = (element("th", name), *(element("td", text) for text in (value, weight, _number(pays))))
    return element("tr", *cells, element("td", bar, class_="la-bars"))


def _verdict(verdict: Verdict) -> Markup:
    name = f"{VERDICTS[verdict.is_anomaly]}, score {verdict.score:.2f}"
    return element("span", name, class_=f"la-badge {_tone(verdict.is_anomaly)}")


def _tone(bad: bool) -> str:
    return "la-bad" if bad else "la-good"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _reach(decision: Decision, mark: float, scores: Sequence[NDArray[np.float32]]) -> tuple[float, float]:
    """The range of scores that is drawn."""
    low, high = (
        min(mark, *(float(each.min()) for each in scores)),
        max(mark, *(float(each.max()) for each in scores)),
    )
    margin = max(0.03 * (high - low), decision.unit / 2)
    return low - margin, high + margin


def _across(low: float, high: float, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where scores lie on the line."""
    return LEFT + (scores - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def data_uri(image: Image.Image) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
