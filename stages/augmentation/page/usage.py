"""How to use the detector of a run, and what is in its folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.report.markup import Markup, commands, element, paragraph, table
from stages.report.page import Part

FILES = {
    "report.md, report.json": "this report as text, and all figures for programs",
    "augmented.npz": "all samples of the agent, with masks, labels, rewards and what each was made from",
    "full_size/": "some of the samples, drawn into your own files at their size",
    "pictures/": "contact sheets of each round, detections and curves",
    "detector.*, autoencoder.*, decision.*, …": "all that a verdict needs; loading them runs no code",
}

FROM_WHERE = "Paths are as seen from the folder in which the run was started."


def usage_part(folder: Path, predicts: bool) -> Part:
    """The section about using what was trained.

    :param folder: of the run.
    :param predicts: whether the run has a threshold, without which it gives no verdicts.
    """
    run = shlex.quote(str(folder))
    content: list[Markup] = [
        paragraph("A click on a command marks all of it. ", "" if folder.is_absolute() else FROM_WHERE)
    ]
    if predicts:
        content += [
            element("h3", "Verdicts on images"),
            commands(f"latent-aug predict {run} photos/ --out checked"),
            paragraph(
                "The folder ",
                element("code", "checked"),
                " then has a table, heat maps and masks. Another share of false alarms needs no training:",
            ),
            commands(f"latent-aug predict {run} photos/ --out checked --false-alarms 0.05"),
            element("h3", "In Python"),
            commands(
                "import latent_env",
                "",
                f"detector = latent_env.load_detector({str(folder)!r})",
                'prediction = detector.predict("photo.png")',
                "print(prediction.is_anomaly, prediction.score, prediction.p_value)",
            ),
            element("h3", "In the browser: drop images, play with actions, keep or reject samples"),
            commands(f"latent-aug app {run}"),
            element("h3", "Without PyTorch"),
            commands(f"latent-aug export {run} --onnx detector.onnx"),
        ]
    content += [
        element("h3", "The augmented images"),
        commands(f"latent-aug export {run} --samples samples --layout mvtec"),
        element("h3", "The environment, for agents of your own"),
        commands(
            "import gymnasium as gym",
            "import latent_env",
            "",
            f'env = gym.make("LatentAug-v0", artifacts={str(folder)!r})',
        ),
        table(
            "What is in the folder of the run",
            ["file", "what it holds"],
            [list(row) for row in FILES.items()],
        ),
    ]
    return Part("use", "How to use it", content)


def facts_part(facts: Mapping[str, Any]) -> Part:
    """The section with all that is known of the run."""
    rows = [
        [name.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)]
        for name, value in facts.items()
    ]
    return Part("facts", "This run", [table("All facts, as report.json has them", ["fact", "value"], rows)])
