"""Textures for synthetic anomalies: the Describable Textures Dataset, or any folder of images."""

from __future__ import annotations

from pathlib import Path

from latent_common.errors import UserError
from latent_env.data.finding import show_tree, walk_images
from latent_env.data.samples import FileSample

HINT = (
    "DTD comes from https://www.robots.ox.ac.uk/~vgg/data/dtd/; any folder of images will do, and without "
    "texture_root textures are generated."
)


def texture_samples(root: Path) -> list[FileSample]:
    """Every image below ``root``."""
    if not root.is_dir():
        raise UserError(f"texture_root={root} is no folder. {HINT}")
    found = [FileSample(path, 0, path.relative_to(root).as_posix()) for path in walk_images(root)]
    if not found:
        raise UserError(f"texture_root={root} holds no images. {HINT}\n{show_tree(root)}")
    return found
