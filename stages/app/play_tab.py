"""The tab *Play*: the numbers of an action as sliders, and at once what the action does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from secrets import randbits
from typing import Any

import gradio as gr

from latent_common.errors import UserError
from latent_env.data.finding import EXTENSIONS
from latent_env.perturbations.base import Coordinate
from stages.app import drawing
from stages.app.playing import Choice, Playground, numbers, shown

STEP = 0.01

MOST = 40
"""So many numbers of an action have sliders; of a latent that is changed number by number the rest stay 0."""

WIDE, NARROW = 220, 120
"""A control, and a button, is at least so many pixels wide."""

FEW = 4
"""So many choices stand beside each other; more are a list."""

FIRST = 3
"""The seed of the action that is shown first."""


def play_tab(playground: Playground | str) -> None:
    """Fill the tab."""
    if isinstance(playground, str):
        gr.HTML(drawing.message("There is no environment to play in.", playground))
        return
    coordinates = playground.coordinates
    first = shown(coordinates, playground.random(FIRST))
    own = gr.State(None)
    with gr.Row(elem_classes=["la-columns", "la-play"]):
        with gr.Column(scale=1, min_width=300):
            source = gr.Slider(
                0,
                max(playground.images - 1, 1),
                0,
                step=1,
                label="normal image",
                elem_id="play-source",
                buttons=[],
            )
            with gr.Accordion("an image of your own", open=False):
                file = gr.File(
                    show_label=False, file_types=sorted(EXTENSIONS), height=120, elem_id="play-file"
                )
            with gr.Row():
                draw = gr.Button("Random action", elem_id="play-random", min_width=NARROW, size="md")
                clear = gr.Button("Change nothing", elem_id="play-nothing", min_width=NARROW, size="md")
            controls = _controls(coordinates[:MOST], first[:MOST])
        with gr.Column(scale=1, min_width=300, elem_classes="la-pinned"):
            pictures, reward = _play(playground, 0, first)
            seen = [gr.HTML(pictures, elem_id="play-pictures"), gr.HTML(reward, elem_id="play-reward")]

    def play(mine: Playground | None, number: float, *given: Choice) -> tuple[str, str]:
        ground = mine or playground
        return _play(ground, ground.images - 1 if mine else int(number), [*given, *first[MOST:]])

    def opened(path: str | None) -> tuple[Playground | None, Any]:
        if path is None:
            return None, gr.update(interactive=True)
        try:
            return playground.with_image(Path(path)), gr.update(interactive=False)
        except UserError as error:
            raise gr.Error(str(error).replace(path, Path(path).name), print_exception=False) from error

    quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    inputs = [own, source, *controls]
    gr.on([each.change for each in (source, *controls)], play, inputs, seen, **quiet)
    file.change(opened, file, [own, source], show_progress="minimal", show_progress_on=seen).then(
        play, inputs, seen, show_progress="hidden"
    )
    draw.click(lambda: shown(coordinates, playground.random(randbits(32)))[:MOST], None, controls, **quiet)
    clear.click(lambda: shown(coordinates, playground.nothing)[:MOST], None, controls, **quiet)


def _play(playground: Playground, source: int, given: Sequence[Choice]) -> tuple[str, str]:
    try:
        found = playground.play(source, numbers(playground.coordinates, given))
    except UserError as error:
        return drawing.message("This step can't be taken.", str(error)), ""
    return drawing.tiles(found.tiles), drawing.outcome(found, playground.environment.left_out)


def _controls(coordinates: Sequence[Coordinate], first: Sequence[Choice]) -> list[Any]:
    """A control for each number, in order; numbers that differ by their number alone stand apart."""
    made: dict[int, Any] = {}
    pairs = list(enumerate(zip(coordinates, first, strict=True)))
    many = [at for at, (coordinate, _) in pairs if re.search(r" \d+$", coordinate.name)]
    apart = many if len(many) < len(pairs) else []
    with gr.Row():
        for at, (coordinate, value) in pairs:
            if at not in apart:
                made[at] = _control(coordinate, value)
    if apart:
        with gr.Accordion(f"{coordinates[apart[0]].name} to {len(apart)}", open=False), gr.Row():
            for at in apart:
                made[at] = _control(coordinates[at], first[at])
    return [made[at] for at in range(len(pairs))]


def _control(coordinate: Coordinate, value: Choice) -> Any:
    name, name_of = coordinate.name, coordinate.name.replace(" ", "-")
    if not coordinate.choices:
        info = f"{coordinate.low} … {coordinate.high}"
        return gr.Slider(
            -1,
            1,
            value,
            step=STEP,
            label=name,
            info=info,
            buttons=[],
            elem_id=f"play-{name_of}",
            min_width=WIDE,
        )
    kind = gr.Radio if len(coordinate.choices) <= FEW else gr.Dropdown
    return kind(list(coordinate.choices), value=value, label=name, elem_id=f"play-{name_of}", min_width=WIDE)
