"""Pictures for people: labelled tiles side by side, contact sheets, panels of a step, and a window."""

from latent_env.rendering.grids import class_grid, contact_sheet
from latent_env.rendering.panels import panel, restorations
from latent_env.rendering.regions import close_up, outlined
from latent_env.rendering.tiles import (
    GAP,
    LARGE_TILE,
    TILE,
    Picture,
    heat,
    save_picture,
    side_by_side,
    stack,
    tile_side,
    to_rgb,
)
from latent_env.rendering.window import Window, has_screen

__all__ = [
    "GAP",
    "LARGE_TILE",
    "TILE",
    "Picture",
    "Window",
    "class_grid",
    "close_up",
    "contact_sheet",
    "has_screen",
    "heat",
    "outlined",
    "panel",
    "restorations",
    "save_picture",
    "side_by_side",
    "stack",
    "tile_side",
    "to_rgb",
]
