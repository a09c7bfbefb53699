"""MVTec AD's layout: that of its own 15 categories, of PKU GoodsAD, and of many users' folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError
from latent_env.data.finding import find_folder, find_place, list_folders, list_images, not_found_error
from latent_env.data.layouts.pairing import only_masked, pair_masks
from latent_env.data.samples import FileSample, Problems, Source, files_of
from latent_env.data.splitting import Splitting

TREE = """\
  train/good/*.png                         normal images to learn from
  train/<defect>/000.png                   anomalous images to learn from (optional)
  test/good/*.png                          normal images to measure on (without test: a fifth of train/good)
  test/<defect>/000.png                    anomalous images to measure on, one folder a kind (optional)
  ground_truth/<defect>/000_mask.png       their masks (optional, but then for all)"""


@dataclass(frozen=True)
class Collection:
    """A published set of categories, each in MVTec AD's layout."""

    name: str
    aliases: tuple[str, ...]
    categories: tuple[str, ...]
    origin: str


MVTEC = Collection(
    "mvtec",
    ("mvtec", "mvtec_ad", "mvtec_anomaly_detection"),
    (
        *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill"),
        *("screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
    ),
    "MVTec AD comes from https://www.mvtec.com/company/research/datasets/mvtec-ad (licence CC BY-NC-SA "
    "4.0, not for commercial use).",
)
GOODSAD = Collection(
    "goodsad",
    ("goodsad", "pku_goodsad", "goods_ad"),
    ("cigarette_box", "drink_bottle", "drink_can", "food_bottle", "food_box", "food_package"),
    "PKU GoodsAD comes from its authors: https://github.com/jianzhang96/GoodsAD links the download.",
)
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
"""MVTec AD's categories that look the same from every side."""


def check_category(name: str, category: str, categories: Sequence[str]) -> None:
    """Raise a ``UserError`` unless the data set ``name`` has this category."""
    if category not in categories:
        given = f"dataset.category={category} is unknown" if category else "dataset.category is missing"
        raise UserError(
            f"{given}: {name} has {', '.join(categories)}, for example "
            f"`dataset={name} dataset.category={categories[0]}`"
        )


def collection_source(
    collection: Collection,
    data_root: Path,
    category: str,
    splitting: Splitting,
    problems: Problems,
    channels: int | None = None,
) -> Source:
    """One category of a published collection below ``data_root``."""
    check_category(collection.name, category, collection.categories)
    folder = find_category(data_root, collection.aliases, category)
    name = f"{collection.name}_{category}"
    if folder is None:
        tree = "\n".join(f"  {category}/{line.strip()}" for line in TREE.splitlines())
        raise not_found_error(name, data_root, collection.aliases, tree, collection.origin)
    return mvtec_source(folder, name, splitting, problems, channels)


def find_category(data_root: Path, aliases: Sequence[str], category: str) -> Path | None:
    """A category's folder in MVTec AD's layout, in a collection called as one of ``aliases``."""

    def holds(place: Path) -> bool:
        folder = find_folder(place, category)
        return folder is not None and _is_mvtec_tree(folder)

    place = find_place(data_root, aliases, holds)
    return find_folder(place, category) if place else None


def _is_mvtec_tree(root: Path) -> bool:
    """Whether ``root`` has ``train/good`` and ``test``."""
    train = find_folder(root, "train")
    return bool(train and find_folder(train, "good") and find_folder(root, "test"))


def mvtec_source(
    root: Path, name: str, splitting: Splitting, problems: Problems, channels: int | None = None
) -> Source:
    """A folder with ``train/good`` and perhaps ``train/<defect>``, ``test`` and ``ground_truth``.

    Valid is set aside from ``train/good``, with the labelled anomalies of ``train/<defect>``; so are test's
    normal images where it has no folders.
    """
    _check_places(root, problems)
    train = _normal_samples(root, "train")
    if len(train) < 2:
        raise UserError(
            f"{root / 'train' / 'good'} holds one image only, but two are the least: one to learn "
            "from, one to validate on. Add normal images."
        )
    test, remarks = find_folder(root, "test"), []
    # Beside kinds of defects good must be there: normal images may lie in a folder of another name.
    if test is not None and list_folders(test):
        good = _normal_samples(root, "test")
    else:
        train, good, remark = splitting.set_aside_test(train, "train/good", "test/good")
        remarks.append(remark)
    anomalies = _anomalous_samples(root, problems)
    labelled = [sample for sample in anomalies if _is_labelled(sample)]
    to_test = [sample for sample in anomalies if not _is_labelled(sample)]
    splits, more = splitting.divide(train, good, to_test, labelled)
    return Source(
        name,
        splits,
        files_of([*train, *good, *anomalies]),
        {"root": str(root.resolve()), **splitting.settings()},
        channels,
        [*remarks, *more],
    )


def _check_places(root: Path, problems: Problems) -> None:
    """Note images of train and test that lie in no folder, and folders of kinds without images."""
    for parent in filter(None, (find_folder(root, "train"), find_folder(root, "test"))):
        loose = list_images(parent)
        if loose:
            problems.note(
                f"{parent} holds images that lie in none of its folders, such as {loose[0].name}. Put normal "
                f"ones into {parent / 'good'}, and anomalous ones into a folder a kind of defect."
            )
        for folder in list_folders(parent):
            if folder.name.lower() != "good" and not list_images(folder):
                problems.note(
                    f"{folder} holds no images (png, jpg, bmp, tif or webp). Put anomalous images there, or "
                    "delete the folder."
                )


def _normal_samples(root: Path, split: str) -> list[FileSample]:
    """The normal images of ``train`` or ``test``; there must be some."""
    parent = find_folder(root, split)
    folder = find_folder(parent, "good") if parent else None
    if folder is None:
        raise UserError(
            f"{root / split / 'good'} does not exist. Expected below {root.absolute()}:\n{TREE}\n"
            f"Put normal images there, or name another folder: dataset.root=/path/to/folder."
        )
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder} holds no images (png, jpg, bmp, tif or webp). Put normal images there.")
    return [FileSample(path, 0, relative(path, root), kind="good") for path in images]


def _anomalous_samples(root: Path, problems: Problems) -> list[FileSample]:
    """The images of every folder in ``train`` and ``test`` but ``good``, with their masks.

    The masks of one kind lie in one folder, whichever split its images are in.
    """
    truth = find_folder(root, "ground_truth")
    kinds: dict[str, list[Path]] = {}
    for parent in filter(None, (find_folder(root, "train"), find_folder(root, "test"))):
        for folder in list_folders(parent):
            if folder.name.lower() != "good":
                kinds.setdefault(folder.name.lower(), []).append(folder)
    samples: list[FileSample] = []
    for folders in kinds.values():
        images = [path for folder in folders for path in list_images(folder)]
        mask_folder = find_folder(truth, folders[-1].name) if truth else None
        pairs = pair_masks(images, list_images(mask_folder) if mask_folder else [], problems)
        samples += [
            FileSample(path, 1, relative(path, root), mask, folders[-1].name) for path, mask in pairs.items()
        ]
    for folder in list_folders(truth) if truth else []:
        if folder.name.lower() not in {*kinds, "good"} and list_images(folder):
            problems.note(
                f"{folder} holds masks, but there is no {root / 'test' / folder.name} with their "
                "images. Add the images or delete the masks."
            )
    return only_masked(samples, "ground_truth/<defect>/<name>_mask.png", problems)


def _is_labelled(sample: FileSample) -> bool:
    """Whether an anomaly lies beside the normal training images."""
    return sample.name.lower().startswith("train/")


def relative(path: Path, root: Path) -> str:
    """The path below the data set's folder, with slashes."""
    return path.relative_to(root).as_posix()
