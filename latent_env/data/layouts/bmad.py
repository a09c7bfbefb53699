"""Medical data sets in the layout of BMAD (Bao et al., https://github.com/DorisBao/BMAD)."""

from __future__ import annotations

from pathlib import Path

from latent_common.errors import UserError
from latent_env.data.finding import (
    find_folder,
    find_place,
    list_folders,
    list_images,
    not_found_error,
    walk_images,
)
from latent_env.data.layouts.mvtec import relative
from latent_env.data.layouts.pairing import only_masked, pair_masks
from latent_env.data.samples import FileSample, Problems, Source, files_of
from latent_env.data.splitting import Splitting, evenly_spaced_samples, set_aside

TREE = """\
  train/good/img/*.png               normal images to learn from
  valid/{good,Ungood}/img/*.png      valid may be called val
  test/{good,Ungood}/img/*.png       images may lie directly in good and Ungood, without img
  {valid,test}/Ungood/anomaly_mask/*.png   masks, or in label, named as their images"""

ORIGIN = (
    "BMAD comes from its authors: https://github.com/DorisBao/BMAD links the download "
    "(licence CC BY-NC-SA 4.0, not for commercial use)."
)

ALIASES: dict[str, tuple[str, ...]] = {
    "bmad_brain": ("Brain", "Brain_AD", "BraTS2021", "BraTS2021_slice"),
    "bmad_liver": ("Liver", "Liver_AD", "hist_DIY"),
    "bmad_resc": ("RESC", "RESC_AD"),
    "bmad_oct2017": ("OCT2017", "OCT2017_AD"),
    "bmad_rsna": ("RSNA", "RSNA_AD", "Chest_RSNA", "Chest"),
    "bmad_camelyon16": ("Camelyon16", "Camelyon16_AD", "Camelyon16_256"),
}
"""Names of each data set's folder in the copies in circulation."""

MASK_FOLDERS = ("anomaly_mask", "label", "mask", "masks")
SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def bmad_source(
    data_root: Path, name: str, splitting: Splitting, problems: Problems, channels: int | None = None
) -> Source:
    """One of BMAD's data sets, or another in the same layout, below ``data_root``; it has its own splits.

    :param name: one of :data:`ALIASES`, or the name of the folder.
    """
    aliases = ALIASES.get(name, (name, f"{name}_AD"))
    if not name:
        raise UserError(
            "dataset.name is missing: give the name of the data set's folder, "
            "for example `dataset=bmad_custom dataset.name=BUSI`"
        )
    root = find_place(data_root, aliases, _holds_splits)
    if root is None:
        raise not_found_error(
            name, data_root, aliases, TREE, ORIGIN if name in ALIASES else "It is a set of your own."
        )
    found = {
        (split, label): _read_folder(root, split, label, problems)
        for split in SPLIT_NAMES
        for label in (0, 1)
        if (split, label) != ("train", 1)
    }
    remarks = []
    if not found["valid", 0] and not found["valid", 1] and len(found["train", 0]) > 1:
        found["train", 0], found["valid", 0], by_group = set_aside(
            found["train", 0], splitting.valid_fraction, splitting.seed, splitting.group
        )
        remarks.append(f"there is no valid split: {by_group or 'a part'} of train was set aside for it")
    for (split, label), samples in found.items():
        if not samples and (split, label) != ("valid", 1):
            what = f"{split}/{'Ungood' if label else 'good'}"
            raise UserError(f"{root} holds no images in {what}. Expected there:\n{TREE}\n{ORIGIN}")
    bad = only_masked(found["valid", 1] + found["test", 1], "Ungood/anomaly_mask/<same name>", problems)
    kept = {sample.path for sample in bad}
    for split in ("valid", "test"):
        found[split, 1] = [sample for sample in found[split, 1] if sample.path in kept]
    splits = {
        split: [
            s
            for label in (0, 1)
            for s in evenly_spaced_samples(found.get((split, label), []), splitting.limit)
        ]
        for split in SPLIT_NAMES
    }
    remarks += splitting.count_labelled(splits)
    title = name if name in ALIASES else f"bmad_{name.lower()}"
    every = [sample for samples in found.values() for sample in samples]
    settings = {"root": str(root.resolve()), **splitting.settings(), "track": "official"}
    return Source(title, splits, files_of(every), settings, channels, remarks)


def _holds_splits(root: Path) -> bool:
    train = find_folder(root, "train")
    return bool(train and _class_folder(train, "good") and find_folder(root, "test"))


def _class_folder(split: Path, name: str) -> Path | None:
    """``good`` or ``Ungood`` of a split, perhaps in a folder of its own (``Train/hist_DIY/good``)."""
    inner = [split, *list_folders(split)]
    return next((folder for folder in (find_folder(place, name) for place in inner) if folder), None)


def _read_folder(root: Path, split: str, label: int, problems: Problems) -> list[FileSample]:
    """The samples of a split's ``good`` (label 0) or ``Ungood`` (label 1) folder."""
    place = find_folder(root, *SPLIT_NAMES[split])
    folder = _class_folder(place, "Ungood" if label else "good") if place else None
    if place is None or folder is None:
        return []
    kind = "Ungood" if label else "good"
    images = list_images(find_folder(folder, "img") or folder) or [
        path for path in walk_images(folder) if not {*_lower_parts(path, folder)} & {*MASK_FOLDERS}
    ]
    masks = _masks(root, place, folder, split) if label else []
    pairs = pair_masks(images, masks, problems)
    return [FileSample(path, label, relative(path, root), mask, kind) for path, mask in pairs.items()]


def _masks(root: Path, place: Path, folder: Path, split: str) -> list[Path]:
    """The masks of a split: beside its images, or in a tree of their own such as ``val_label/Ungood``."""
    beside = find_folder(folder, *MASK_FOLDERS)
    if beside is not None:
        return list_images(beside)
    names = [f"{name}_label" for name in SPLIT_NAMES[split]]
    for parent in (place, root):
        labels = find_folder(parent, *names)
        if labels is not None:
            return walk_images(find_folder(labels, "Ungood") or labels)
    return []


def _lower_parts(path: Path, folder: Path) -> list[str]:
    return [part.lower() for part in path.relative_to(folder).parts[:-1]]
