"""`report.html` of a run of `train_ppo.py` in LatentDenoise-v0: figures, images and how to go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from latent_env.training.run_folder import Run
from stages.report.charts import chart, curve
from stages.report.events import logged
from stages.report.markup import Markup, commands, element, paragraph, table
from stages.report.page import KeyFigure, Part, write_page
from stages.report.pictures import sheet
from stages.report.words import counted

RETURN = "rollout/ep_rew_mean"
LEAST_POINTS = 3
"""A learning curve has at least so many points."""


def write_generator_page(
    run: Run,
    dataset: str,
    about: str,
    lead: str,
    names: Mapping[str, str],
    columns: Mapping[str, str],
    figures: Mapping[str, Mapping[str, float]],
    space: str,
) -> None:
    """Write ``report.html`` into the folder of ``run``.

    :param names: the sources of images, and what each is for people; the first is the agent.
    :param columns: the metrics, and their names for people.
    :param figures: by source and metric.
    """
    own = next(iter(names))
    rows = [
        [text, *(f"{figures[name][key]:.3f}" if key in figures[name] else "" for key in columns)]
        for name, text in names.items()
    ]
    caption = "Images by their source, measured by a classifier that was trained on the same training images"
    explained = (
        "Class accuracy: how often an image is of the class that was asked for. Fréchet distance to test "
        "images: lower is nearer. Diversity 1: images of a class differ as much as real ones."
    )
    parts = [
        Part(
            "figures", "Figures", [table(caption, ["images", *columns.values()], rows), paragraph(explained)]
        ),
        Part("images", "Images", [*pictures(run.path / "pictures", names), *learning(run.path)]),
        Part("use", "How to use it", usage(run.path, space)),
    ]
    shown = [KeyFigure(f"{figures[own][key]:.3f}", columns[key]) for key in columns if key in figures[own]]
    write_page(run.path, f"Images of {dataset}", about, [paragraph(lead, class_="lead")], shown, parts)


def pictures(folder: Path, names: Mapping[str, str]) -> list[Markup]:
    """What each source made, and some episodes from noise to image."""
    found = []
    titles = {f"images_{name}": text for name, text in names.items()}
    for file, text in {**titles, "strips": "episodes of the agent, from noise to image"}.items():
        if (path := folder / f"{file}.png").is_file():
            with Image.open(path) as picture:
                found.append(sheet(np.asarray(picture.convert("RGB")), f"Images: {text}", text))
    return found


def learning(folder: Path) -> list[Markup]:
    """The agent's learning curve, where it has one."""
    points = logged(folder, RETURN)
    if len(points) < LEAST_POINTS:
        return []
    drawing = curve(points, "steps of the agent", "mean return", "The agent's mean return while it learned")
    caption = f"The agent's mean return while it learned, over {counted(len(points), 'update')}."
    return [element("div", chart(drawing, caption), class_="charts")]


def usage(folder: Path, space: str) -> list[Markup]:
    """How the environment of the run is made."""
    return [
        paragraph("The environment with this critic, for agents of your own:"),
        commands(
            "import gymnasium as gym",
            "import latent_env",
            "",
            f'env = gym.make("LatentDenoise-v0", artifacts={str(folder)!r}, space={space!r})',
        ),
    ]
