"""The page: three tabs about one run, and how they look."""

from __future__ import annotations

import gradio as gr

from stages.app.inspect_tab import inspect_tab
from stages.app.opened import OpenRun
from stages.app.play_tab import play_tab
from stages.app.samples_tab import samples_tab
from stages.report.markup import element

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
"""Fonts that are there already: others would be fetched from elsewhere."""

STYLE = """
.gradio-container { width: 100% !important; max-width: 86rem !important; margin-inline: auto; }
.la-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
.la-head h1 { font-size: 1.35rem; font-weight: 650; margin: 0; }
.la-head span { color: var(--body-text-color-subdued); overflow-wrap: anywhere; font-size: .9rem; }
.la-message { padding: 1rem; border: 1px solid var(--border-color-primary); border-radius: 8px;
  overflow-wrap: anywhere; }
.la-message p:first-child { font-weight: 600; }
.la-message p + p { color: var(--body-text-color-subdued); margin-top: .4rem; }
.la-badge { border-radius: 99px; padding: .05rem .6rem; font-size: .82rem; font-weight: 600; color: #fff;
  white-space: nowrap; }
.la-good { background: #2b7a58; }
.la-bad { background: #b5391f; }

.la-summary { font-size: 1.1rem; font-weight: 600; }
.la-cards { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(12rem, 100%), 1fr)); }
.la-card { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 8px; overflow: hidden; }
.la-card img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #15171a; }
.la-card figcaption { display: flex; flex-wrap: wrap; align-items: center; gap: .2rem .5rem;
  padding: .5rem .7rem; }
.la-card b { flex: 1 1 4rem; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  font-weight: 600; font-size: .9rem; }
.la-figures { flex: 1 0 100%; font-size: .85rem; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; }
.la-broken { margin-top: .8rem; color: #b5391f; overflow-wrap: anywhere; }
.la-consequences p { margin: .3rem 0; font-size: .92rem; }
.la-scores { width: 100%; height: auto; }
.la-scores text { font-size: 12px; fill: var(--body-text-color-subdued); }
.la-axis { stroke: var(--border-color-primary); }
.la-threshold { stroke: var(--body-text-color); stroke-dasharray: 5 3; stroke-width: 1.5; }
.la-normal { fill: #3a9274; }
.la-anomaly { fill: #d0562f; }
.la-yours { fill: #3478c6; }
.la-scores circle { fill-opacity: .75; }

.la-tiles { display: grid; gap: .5rem; grid-template-columns: repeat(3, 1fr); }
.la-tiles figure { margin: 0; }
.la-tiles img { display: block; width: 100%; border-radius: 4px; background: #15171a; }
.la-tiles figcaption { font-size: .82rem; color: var(--body-text-color-subdued); margin-top: .15rem; }
.la-reward { width: 100%; table-layout: fixed; border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin-top: .6rem; border: 0 !important; }
.la-reward thead, .la-reward tbody, .la-reward tr { border: 0 !important; }
.la-reward th, .la-reward td { border: 0 !important; text-align: right !important;
  padding: .3rem .4rem !important; border-bottom: 1px solid var(--border-color-primary) !important;
  font-weight: 400; }
.la-reward tr th:first-child { text-align: left !important; width: 28%; overflow-wrap: anywhere; }
.la-reward thead th { color: var(--body-text-color-subdued); font-size: .85rem; }
.la-reward tbody tr:last-child th, .la-reward tbody tr:last-child td { font-weight: 700;
  border-bottom: 0 !important; }
.la-bar { display: block; height: .7rem; border-radius: 3px; min-width: 1px; }
.la-gain { background: #3a9274; }
.la-loss { background: #d0562f; }
#play-reward p { margin: .3rem 0; }

.la-facts { margin-bottom: .6rem; overflow-wrap: anywhere; }
#samples-large .la-tiles { grid-template-columns: repeat(2, 1fr); }
#samples-gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)) !important; }
#samples-gallery .grid-wrap { max-height: none; }

@media (min-width: 800px) {
  .la-pinned { position: sticky; top: .5rem; align-self: flex-start; }
}
@media (max-width: 799px) {
  .la-columns { flex-direction: column; flex-wrap: nowrap; align-items: stretch; }
  .la-play .la-pinned { display: contents; }
  .la-play #play-pictures { order: -1; position: sticky; top: 0; z-index: 5; padding-block: .3rem;
    background: var(--body-background-fill); }
  .la-play .la-tiles { gap: .3rem; }
  .la-play .la-tiles figcaption { font-size: .68rem; line-height: 1.2; }
  #samples-gallery .grid-wrap { max-height: 42vh; overflow-y: auto; }
}
"""


def build_page(run: OpenRun) -> gr.Blocks:
    """The page of ``run``."""
    name = run.folder.name
    with gr.Blocks(title=f"{name} · LatentAug", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(element("div", element("h1", name), element("span", str(run.folder)), class_="la-head"))
        with gr.Tabs():
            with gr.Tab("Inspect", id="inspect"):
                inspect_tab(run.detector)
            with gr.Tab("Play", id="play"):
                play_tab(run.playground)
            with gr.Tab("Samples", id="samples"):
                samples_tab(page, run.samples)
    return page


def theme() -> gr.themes.Base:
    """Plain colours, and fonts that are on the machine."""
    return gr.themes.Base(primary_hue="teal", neutral_hue="gray", font=FONTS, font_mono=FIXED_FONTS)
