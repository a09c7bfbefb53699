"""The tab *Samples*: what the agent made, to keep or to reject."""

from __future__ import annotations

from typing import Any

import gradio as gr

from agents.rollout import KINDS
from latent_common.errors import UserError
from stages.app import drawing
from stages.app.choosing import ALL, BEST, ORDERS, PAGE, STATES, MadeSamples, Place, View
from stages.app.playing import Tile
from stages.export.arguments import LAYOUT_NAMES
from stages.report.markup import paragraph

NARROW = 120
"""Buttons are at least so many pixels wide: two stand beside each other on a telephone."""


def samples_tab(page: gr.Blocks, samples: MadeSamples | str) -> None:
    """Fill the tab; ``page`` is what it is on."""
    if isinstance(samples, str):
        gr.HTML(drawing.message("There are no samples to choose among.", samples))
        return
    names = [(kind.replace("_", " "), kind) for kind in (ALL, *KINDS) if kind == ALL or kind in samples.kinds]
    place = gr.State(samples.place(View()))
    with gr.Row(elem_classes="la-filters"):
        kind = gr.Dropdown(names, value=ALL, label="Kind", elem_id="samples-kind", min_width=140)
        state = gr.Dropdown(list(STATES), value=ALL, label="Show", elem_id="samples-state", min_width=140)
        order = gr.Dropdown(list(ORDERS), value=BEST, label="Order", elem_id="samples-order", min_width=140)
    with gr.Row(elem_classes="la-columns"):
        with gr.Column(scale=3, min_width=300):
            gallery = gr.Gallery(
                show_label=False,
                columns=6,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                format="jpeg",
                buttons=[],
                elem_id="samples-gallery",
            )
            with gr.Row():
                back = gr.Button("◀ Previous", elem_id="samples-back", min_width=NARROW)
                on = gr.Button("Next ▶", elem_id="samples-on", min_width=NARROW)
            count = gr.HTML(elem_id="samples-count")
            with gr.Row():
                layout = gr.Dropdown(
                    list(LAYOUT_NAMES), label="Layout", elem_id="samples-layout", min_width=NARROW
                )
                export = gr.Button("Export those kept", elem_id="samples-export", min_width=NARROW)
            exported = gr.HTML(elem_id="samples-exported")
        with gr.Column(scale=2, min_width=300, elem_classes="la-pinned"):
            with gr.Row():
                keep = gr.Button("Keep", elem_id="samples-keep", min_width=NARROW, size="md")
                reject = gr.Button(
                    "Reject", variant="stop", elem_id="samples-reject", min_width=NARROW, size="md"
                )
            large = gr.HTML(elem_id="samples-large")
    views = [kind, state, order]
    outputs = [place, gallery, count, large]

    def filtered(*wanted: str) -> tuple[Any, ...]:
        return _drawn(samples, samples.place(View(*wanted)))

    def selected(now: Place, event: gr.SelectData) -> tuple[Place, str]:
        chosen = now.at(event.index)
        return chosen, enlarged(samples, chosen)

    def chose(now: Place, keeps: bool) -> tuple[Any, ...]:
        if now.selected is None:
            raise gr.Error("There is no sample to choose.", print_exception=False)
        try:
            samples.choose([now.selected], keeps)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return _drawn(samples, now.after())

    def write(wanted: str) -> str:
        try:
            return paragraph(f"Written: {samples.export(wanted)}")
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    quiet = {"show_progress": "hidden"}
    gr.on([each.change for each in views], filtered, views, outputs, **quiet)
    back.click(lambda now: _drawn(samples, now.turned(-1)), place, outputs, **quiet)
    on.click(lambda now: _drawn(samples, now.turned(1)), place, outputs, **quiet)
    gallery.select(selected, place, [place, large], **quiet)
    keep.click(lambda now: chose(now, True), place, outputs, **quiet)
    reject.click(lambda now: chose(now, False), place, outputs, **quiet)
    export.click(write, layout, exported, show_progress="minimal")
    page.load(lambda: _drawn(samples, samples.place(View())), None, outputs, **quiet)


def enlarged(samples: MadeSamples, place: Place) -> str:
    """The sample that is selected, at a size at which a person can judge it."""
    if place.selected is None:
        return drawing.message("No sample is like that.")
    tiles = [Tile(caption, picture) for picture, caption in zip(*samples.tiles(place.selected), strict=True)]
    return drawing.sample(tiles, samples.facts(place.selected), place.selected in samples.rejected)


def whereabouts(samples: MadeSamples, place: Place) -> str:
    """Which samples are on the page, and how many were rejected."""
    first = place.page * PAGE
    on_page = f"{first + 1} to {first + len(place.shown)} of {len(place.rows)}" if place.rows else "none"
    return paragraph(f"{on_page} · {len(samples.rejected)} of {len(samples.made)} rejected")


def _drawn(samples: MadeSamples, place: Place) -> tuple[Any, ...]:
    """What the tab shows at ``place``, for its outputs."""
    rejected = samples.rejected
    pictures = [(samples.thumbnail(row, row in rejected), samples.caption(row)) for row in place.shown]
    gallery = gr.update(value=pictures, selected_index=place.index)
    return place, gallery, whereabouts(samples, place), enlarged(samples, place)
