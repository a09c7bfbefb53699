"""What was found in the data: how many images of which kind, their sizes, and some to look at."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from latent_env.data import Dataset, Split
from latent_env.data.groups import kind_of
from latent_env.rendering import outlined, to_rgb
from stages.detector.labelled_split import LabelledSplit
from stages.report.markup import Markup, element, joined, listed, paragraph, table
from stages.report.page import Part
from stages.report.pictures import SIDE, tile, tiles
from stages.report.words import counted

MOST_KINDS = 7
"""So many kinds of anomalies are shown as pictures."""

PURPOSES = {
    "train": "autoencoder and detectors learn from these",
    "valid": "thresholds and the mixture of samples are chosen by these",
    "test": "read once, at the end: all figures of this page but where it says otherwise",
}


def data_part(dataset: Dataset, labelled: LabelledSplit) -> Part:
    """The section about the data."""
    splits = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    rows = []
    for name, split in splits.items():
        anomalous = int(split.labels.sum())
        rows.append([name, f"{len(split) - anomalous:,}", f"{anomalous:,}", PURPOSES[name]])
    content = [
        paragraph(sizes(dataset)),
        table("Images in each split", ["split", "normal", "anomalous", "what for"], rows),
        *kinds_table(dataset),
        *labelled_use(labelled),
    ]
    if dataset.remarks:
        content += [element("h3", "What should be known"), listed(dataset.remarks)]
    return Part("data", "The data", [*content, element("h3", "Some of the images"), examples(dataset)])


def sizes(dataset: Dataset) -> str:
    """In which size and colours images are seen, and what they were."""
    colours = "in grey" if dataset.channels == 1 else "in colour"
    masks = "without masks" if dataset.test.masks is None else "with masks of what is anomalous"
    seen = f"Images are seen at {dataset.size} × {dataset.size} pixels, {colours}, {masks}"
    if dataset.native is None:
        return f"{seen}."
    smallest, largest = (f"{width:,} × {height:,}" for width, height in dataset.native)
    were = smallest if smallest == largest else f"from {smallest} to {largest}"
    return f"{seen}. The files have {were} pixels."


def kinds(split: Split) -> Counter[str]:
    """How many anomalous images of each kind a split has."""
    return Counter(kind_of(split.names[row]) for row in np.flatnonzero(split.labels).tolist())


def kinds_table(dataset: Dataset) -> list[Markup]:
    """A table of the kinds of anomalies, where there are several."""
    valid, test = kinds(dataset.valid), kinds(dataset.test)
    names = sorted({*valid, *test})
    if len(names) < 2:
        return []
    rows = [[name, f"{valid[name]:,}", f"{test[name]:,}"] for name in names]
    return [
        table("Kinds of anomalies, by the folders that the images lie in", ["kind", "valid", "test"], rows)
    ]


def labelled_use(labelled: LabelledSplit) -> list[Markup]:
    """What the anomalous validation images were used for."""
    counts = [len(part) for part in labelled]
    if not sum(counts):
        return [
            paragraph(
                "No validation image is labelled as an anomaly: detectors learned from normal images and "
                "synthetic anomalies alone."
            )
        ]
    learned, paid, chose = counts
    uses = [f"detectors learned from {learned}, which the agent could copy too"] if learned else []
    uses += [f"the agent's reward was measured on {paid}"] if paid else []
    uses += [f"{chose} were kept for choices"] if chose else []
    return [paragraph(f"Of {counted(sum(counts), 'anomalous validation image')}, {'; '.join(uses)}.")]


def examples(dataset: Dataset) -> Markup:
    """A normal image, and an anomaly of each kind with a line around what is anomalous."""
    figures = [_example(dataset.train, 0, "normal, train")]
    shown: set[str] = set()
    for name, split in (("valid", dataset.valid), ("test", dataset.test)):
        for row in np.flatnonzero(split.labels).tolist():
            kind = kind_of(split.names[row])
            if kind not in shown and len(shown) < MOST_KINDS:
                shown.add(kind)
                figures.append(_example(split, row, f"{kind or 'anomaly'}, {name}"))
    return joined([tiles(*figures)])


def _example(split: Split, row: int, caption: str) -> Markup:
    picture = to_rgb(torch.from_numpy(np.array(split.images[row])))
    masked = split.masks is not None and bool(split.masks[row].any())
    if split.masks is not None and masked:
        picture = outlined(picture, np.array(split.masks[row]), SIDE)
    alt = f"{caption}: {split.names[row]}" + (", what is anomalous is outlined" if masked else "")
    return tile(picture, alt, caption)
