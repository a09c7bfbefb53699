"""Best and worst cases: test images that the detector gets most wrong, and most right, with its map."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detectors.blocks.tokens import at_size
from latent_env.rendering import outlined, to_rgb
from latent_env.training.evaluation import Evaluation
from latent_env.worlds.world import World
from stages.detector.thresholds import ThresholdReport
from stages.predict.pictures import overlaid
from stages.report.markup import Markup, element, paragraph
from stages.report.page import Part
from stages.report.pictures import SIDE, tile, tiles
from stages.report.words import figure

SHOWN = 4
"""So many images are shown of each sort."""

Rows = NDArray[np.int64]


def cases_part(after: Evaluation, world: World, thresholds: ThresholdReport | None) -> Part:
    """The section with the test images that say most of the detector with augmentation."""
    content: list[Markup] = [
        paragraph(
            "The test images that the detector with augmentation is most wrong about, and most right. Left "
            "the image, with a line around what is marked as anomalous where masks are known; right what "
            "the detector finds suspicious."
        )
    ]
    for title, rows in chosen(after.split.labels, after.scores).items():
        if len(rows):
            maps = drawn_maps(after, world, thresholds, rows)
            cases = [case(after, int(row), drawn, thresholds) for row, drawn in zip(rows, maps, strict=True)]
            content += [element("h3", title), element("div", *cases, class_="cases")]
    return Part("cases", "Best and worst cases", content)


def chosen(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, Rows]:
    """The positions of the test images that are shown, by what they have in common."""
    order = np.argsort(scores, kind="stable")
    normal, anomalous = order[labels[order] == 0], order[labels[order] == 1]
    return {
        "Anomalies with the lowest scores": anomalous[:SHOWN],
        "Normal images with the highest scores": normal[::-1][:SHOWN],
        "Anomalies with the highest scores": anomalous[SHOWN:][::-1][:SHOWN],
    }


@torch.inference_mode()
def drawn_maps(
    after: Evaluation, world: World, thresholds: ThresholdReport | None, rows: Rows
) -> NDArray[np.float32]:
    """The maps ``(K, H, W)`` of the images at ``rows (K,)``, from 0 to 1; above .5 belongs to a finding."""
    if after.maps is not None:
        maps = after.maps[rows]
    else:
        images = torch.from_numpy(np.array(after.split.images[rows])).to(world.device).float() / 255
        maps = at_size(world.detect(images).map, images.shape[-1])[:, 0].float().cpu().numpy()
    if thresholds is None:
        return np.asarray(torch.from_numpy(maps).sigmoid().numpy(), np.float32)
    return thresholds.decision.scaled_maps(maps, thresholds.decision.for_false_alarms())


def case(
    after: Evaluation, row: int, drawn: NDArray[np.float32], thresholds: ThresholdReport | None
) -> Markup:
    """One test image: itself, and the detector's map laid over it."""
    split, name = after.split, after.split.names[row]
    picture = to_rgb(torch.from_numpy(np.array(split.images[row])))
    overlay = np.asarray(overlaid(Image.fromarray(picture), drawn, (SIDE, SIDE)))
    marked = split.masks is not None and bool(split.masks[row].any())
    if split.masks is not None and marked:
        picture = outlined(picture, np.array(split.masks[row]), SIDE)
    what = "anomalous" if split.labels[row] else "normal"
    figures = [
        tile(picture, f"{name}, {what}", f"truth: {what}{', outlined' if marked else ''}"),
        tile(
            overlay,
            f"{name} with the detector's map laid over it",
            said(float(after.scores[row]), thresholds),
        ),
    ]
    return tiles(*figures, heading=name)


def said(score: float, thresholds: ThresholdReport | None) -> str:
    """The detector's verdict on an image with a raw ``score``."""
    if thresholds is None:
        return f"raw score {score:.3g}".replace("-", "\N{MINUS SIGN}")
    decision = thresholds.decision
    threshold = decision.for_false_alarms()
    called = "anomaly" if score > threshold.score else "normal"
    scaled, p = float(decision.scaled([score], threshold)[0]), float(decision.p_values([score])[0])
    return f"verdict: {called}, score {figure(scaled)}, p {figure(p)}"
