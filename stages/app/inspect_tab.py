"""The tab *Inspect*: images are dropped, and a slider moves the threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gradio as gr

from latent_env.data.finding import EXTENSIONS
from latent_env.prediction.detector import AnomalyDetector
from latent_env.worlds.thresholds import FALSE_ALARMS
from stages.app import drawing
from stages.app.inspection import Consequences, Seen, judge, measure
from stages.report.markup import joined

LEAST, MOST, STEP = 0.1, 25.0, 0.1
"""The slider, in per cent of normal images."""

BY_RATE, BY_F1 = "rate of false alarms", "best F1 on labelled anomalies"


def inspect_tab(detector: AnomalyDetector | str) -> None:
    """Fill the tab."""
    if isinstance(detector, str):
        gr.HTML(drawing.message("This run has no detector that could look at images.", detector))
        return
    seen, first = gr.State(Seen.nothing()), show(detector, Seen.nothing(), True)
    with gr.Row(elem_classes="la-columns"):
        with gr.Column(scale=2, min_width=300):
            files = gr.File(
                label="Images",
                file_count="multiple",
                file_types=sorted(EXTENSIONS),
                elem_id="inspect-files",
                height=150,
            )
            by = gr.Radio(
                [BY_RATE, BY_F1],
                value=BY_RATE,
                label="Threshold",
                visible=bool(len(detector.decision.anomalous)),
                elem_id="inspect-by",
            )
            rate = gr.Slider(
                LEAST,
                MOST,
                100 * FALSE_ALARMS,
                step=STEP,
                label="False alarms, in % of normal images",
                buttons=[],
                elem_id="inspect-rate",
            )
            promise = gr.HTML(first[0], elem_id="inspect-promise")
        with gr.Column(scale=3, min_width=300):
            with gr.Row(equal_height=True):
                summary = gr.HTML(first[1], elem_id="inspect-summary", min_width=220)
                maps = gr.Checkbox(
                    True, label="heat maps", elem_id="inspect-maps", container=False, scale=0, min_width=130
                )
            cards = gr.HTML(first[2], elem_id="inspect-cards")

    def shown(known: Seen, way: str, percent: float, with_maps: bool) -> tuple[str, str, str]:
        return show(chosen_threshold(detector, way, percent), known, with_maps)

    def dropped(
        paths: Sequence[str] | None, known: Seen, way: str, percent: float, with_maps: bool
    ) -> Iterator[tuple[Seen, str, str, str]]:
        for now in measure(detector, list(paths or ()), known):
            yield now, *shown(now, way, percent, with_maps)

    settings = [by, rate, maps]
    outputs = [promise, summary, cards]
    files.change(
        dropped,
        [files, seen, *settings],
        [seen, *outputs],
        show_progress="minimal",
        show_progress_on=[summary],
    )
    gr.on(
        [each.change for each in settings],
        shown,
        [seen, *settings],
        outputs,
        trigger_mode="always_last",
        show_progress="hidden",
    )
    by.change(lambda way: gr.update(interactive=way == BY_RATE), by, rate, show_progress="hidden")


def chosen_threshold(detector: AnomalyDetector, way: str, percent: float) -> AnomalyDetector:
    """The detector with the threshold that is wanted."""
    return detector.with_best_f1() if way == BY_F1 else detector.with_false_alarms(percent / 100)


def show(detector: AnomalyDetector, seen: Seen, with_maps: bool) -> tuple[str, str, str]:
    """What the threshold would do on validation, how many images are anomalies, and their cards."""
    predictions = judge(detector, seen)
    found = Consequences.of(detector.decision, detector.threshold)
    promise = joined([drawing.score_line(detector, predictions), drawing.consequences(found)])
    return promise, drawing.summary(seen, predictions), drawing.cards(seen, predictions, with_maps)
