"""Which mask belongs to which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from latent_env.data.samples import FileSample, Problems


def pair_masks(images: Sequence[Path], masks: Sequence[Path], problems: Problems) -> dict[Path, Path | None]:
    """Match masks to images by name: ``000_mask`` or ``000`` for ``000``, with any ending.

    :returns: the mask of each image, or None; images with several masks are left out.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        by_stem[_stem(mask)].append(mask)
    claims: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        claims[_stem(image)].append(image)
    pairs: dict[Path, Path | None] = {}
    used: set[Path] = set()
    for image in images:
        stem = _stem(image)
        found, claimants = by_stem[f"{stem}_mask"] + by_stem[stem], claims[stem]
        used.update(found)
        if found and len(claimants) > 1:
            names = ", ".join(path.name for path in claimants)
            problems.note(f"{image}: {names} have the same name, so whose mask is meant is unknown.")
        elif len(found) > 1:
            names = ", ".join(path.name for path in found)
            problems.note(f"{image}: {names} are all masks of it. Keep one of them.")
        else:
            pairs[image] = found[0] if found else None
    orphans = sorted(set(masks) - used)
    where = images[0].parent if images else "the test images"
    for orphan in orphans[:1] if problems.on_error == "stop" else orphans:
        problems.note(
            f"{orphan}: this mask has no image of the same name in {where}{_and_more(orphans, problems)}. "
            "Add the image or delete the mask."
        )
    return pairs


def only_masked(samples: Sequence[FileSample], expected: str, problems: Problems) -> list[FileSample]:
    """The anomalous samples that have masks, or all if none has; noting those without as problems.

    :param expected: where a mask should be, for the message.
    """
    missing = [sample.path for sample in samples if not sample.masked]
    if not missing or len(missing) == len(samples):
        return list(samples)
    for path in missing[:1] if problems.on_error == "stop" else missing:
        problems.note(
            f"{path}: this anomalous image has no mask although others have one"
            f"{_and_more(missing, problems)}. Add its mask ({expected}), or remove all masks to go without."
        )
    return [sample for sample in samples if sample.masked]


def _stem(path: Path) -> str:
    return path.stem.lower()


def _and_more(paths: Sequence[Path], problems: Problems) -> str:
    several = len(paths) > 1 and problems.on_error == "stop"
    return f" (and {len(paths) - 1} more like it)" if several else ""
