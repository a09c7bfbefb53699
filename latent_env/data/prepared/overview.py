"""A picture of a prepared data set, so that a user can check it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from latent_env.data.prepared.split_files import open_split

COLUMNS = 8
PICTURE = "overview.png"


def save_overview(folder: Path, splits: Iterable[str]) -> Path:
    """Draw normal and anomalous images of each split in ``folder`` as ``overview.png``, masks outlined."""
    import torch  # slow to import, and not needed once a data set is prepared

    from latent_env.rendering import LARGE_TILE, contact_sheet, save_picture, stack, tile_side

    rows = []
    for name in splits:
        split = open_split(folder / f"{name}.npz")
        for label, what in ((0, "normal"), (1, "anomaly")):
            chosen = np.flatnonzero(split.labels == label)
            if not len(chosen):
                continue
            # Rows of equal length: images are repeated where there are few.
            picks = chosen[np.linspace(0, len(chosen) - 1, COLUMNS).round().astype(int)]
            part = split.subset(picks)
            masks = (
                np.zeros((COLUMNS, *part.images.shape[2:]), np.bool_) if part.masks is None else part.masks
            )
            rows.append(
                contact_sheet(
                    torch.from_numpy(np.array(part.images)),
                    torch.from_numpy(np.array(masks))[:, None],
                    [f"{name} {what}"] * COLUMNS,
                    COLUMNS,
                    min(tile_side(part.images.shape[-1]), LARGE_TILE),
                )
            )
    path = folder / PICTURE
    save_picture(path, stack(rows))
    return path
