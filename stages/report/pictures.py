"""Pictures inside a page: as small as they can be without looking worse."""

from __future__ import annotations

import base64
import io

from PIL import Image

from latent_env.rendering import Picture
from latent_env.rendering.tiles import resized
from stages.report.markup import Markup, element

SIDE = 256
"""Tiles are drawn with so many pixels a side."""

WIDEST = 1200
"""Whole sheets are drawn at most so many pixels wide."""

QUALITY = 82
FULL_COLOUR = 0
"""JPEG without subsampled colours: thin coloured lines stay sharp."""

FEW_COLOURS = 64
"""Pictures of at most so many colours are smaller, and exact, as PNG."""


def tile(picture: Picture, alt: str, caption: str) -> Markup:
    """A square picture with its caption."""
    image = element("img", src=data_uri(resized(picture, SIDE)), alt=alt, width=SIDE, height=SIDE)
    return element("figure", image, element("figcaption", caption))


def tiles(*figures: str, heading: str | None = None) -> Markup:
    """Tiles in rows, as many beside each other as fit, perhaps below a heading."""
    title = () if heading is None else (element("h4", heading),)
    return element("div", *title, element("div", *figures, class_="tiles"), class_="group")


def sheet(picture: Picture, alt: str, caption: str) -> Markup:
    """A wide picture with its caption, scrolled on narrow screens."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        scaled = Image.fromarray(picture).resize((WIDEST, round(height * WIDEST / width)), reducing_gap=2.0)
        height, width = scaled.height, scaled.width
        uri = _encoded(scaled)
    else:
        uri = data_uri(picture)
    image = element("img", src=uri, alt=alt, width=width, height=height)
    holder = element("div", image, class_="scroll", role="region", tabindex=0, aria_label=alt)
    return element("figure", holder, element("figcaption", caption), class_="sheet")


def data_uri(picture: Picture) -> str:
    """A picture ``(H, W, 3)`` as a data URI: PNG of a few colours, else JPEG."""
    return _encoded(Image.fromarray(picture))


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    kind = "jpeg" if image.getcolors(FEW_COLOURS) is None else "png"
    options: dict[str, int] = {"quality": QUALITY, "subsampling": FULL_COLOUR} if kind == "jpeg" else {}
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
