"""What the agent made: how many samples of which kind, how varied, and some to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from agents.rollout import KINDS, Augmented
from stages.augmentation.pictures.sheets import Examples, ranked_samples, row_tiles
from stages.report.charts import Points, chart, curve
from stages.report.markup import Markup, element, paragraph, table
from stages.report.page import Part
from stages.report.pictures import tile, tiles
from stages.report.words import counted, figure, percent, sentence

SHOWN = {"copy_paste": 4, "perturbation": 4, "normal_variation": 2}
"""So many samples of each kind are shown, from the best paid to the worst paid."""

LEAST_POINTS = 3
"""A learning curve has at least so many points."""

TITLES = {
    "copy_paste": ("Copies of labelled anomalies", "mostly a labelled anomaly, put somewhere else"),
    "perturbation": ("Perturbations", "made by a change of the latent"),
    "normal_variation": ("Normal variations", "changed so little that they are still normal"),
}


def made_part(
    added: str,
    facts: Mapping[str, Any],
    samples: Augmented,
    starts: Tensor,
    examples: Examples | None,
    learned: Points,
) -> Part:
    """The section about the agent's samples.

    :param added: a sentence: what of them the detector learned from.
    :param facts: of the run, as ``report.json`` has them.
    :param starts: ``(S, C, H, W)`` uint8, the images that ``samples.source`` counts.
    :param learned: the agent's mean reward after so many steps.
    """
    content: list[Markup] = [paragraph(sentence(added))]
    if len(samples):
        content.append(kinds_table(samples))
    if facts["anomalous_samples"]:
        content.append(paragraph(variety(facts)))
    content += learning(learned)
    for kind in reversed(KINDS):
        content += shown(kind, samples, starts, examples)
    return Part("samples", "What the agent made", content)


def kinds_table(samples: Augmented) -> Markup:
    """How many samples there are of each kind, and what they were paid."""
    rows = []
    for number, kind in reversed(list(enumerate(KINDS))):
        rewards = samples.reward[samples.kinds == number]
        if len(rewards):
            title, about = TITLES[kind]
            rows.append([title, about, f"{len(rewards):,}", figure(float(rewards.float().mean()))])
    caption = f"{counted(len(samples), 'sample')} of the agent"
    return table(caption, ["kind", "what it is", "samples", "mean reward"], rows)


def variety(facts: Mapping[str, Any]) -> str:
    """How varied the anomalous samples are."""
    return (
        f"Variety of the anomalous samples: {percent(facts['duplicates'])} have a near duplicate; they vary "
        f"in about {facts['effective_rank']:.0f} directions of the latent; coverage of local anomalies is "
        f"{figure(facts['coverage'])} (0: nothing changed, 1: every one of 512 probes is met)."
    )


def learning(learned: Points) -> list[Markup]:
    """The agent's learning curve, where it has one."""
    if len(learned) < LEAST_POINTS:
        return []
    drawing = curve(learned, "steps of the agent", "mean reward", "The agent's mean reward while it learned")
    caption = (
        "The agent's mean reward while it learned. Between rounds the reward ensemble learns too, so it may "
        "fall."
    )
    return [element("div", chart(drawing, caption), class_="charts")]


def shown(kind: str, samples: Augmented, starts: Tensor, examples: Examples | None) -> list[Markup]:
    """Some samples of a kind, each as a row of tiles; nothing if there are none."""
    chosen, places = ranked_samples(samples, kind, SHOWN[kind])
    rows = []
    for at, place in enumerate(places):
        pictures, captions = row_tiles(chosen, at, starts, examples)
        figures = [
            tile(picture, f"{TITLES[kind][0]}, {place}: {caption}", caption)
            for picture, caption in zip(pictures, captions, strict=True)
        ]
        rows.append(tiles(*figures, heading=f"{place} by reward, {figure(float(chosen.reward[at]))}"))
    return [element("h3", TITLES[kind][0]), *rows] if rows else []
