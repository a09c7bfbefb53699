"""Medical data sets in the layout of BMAD (Bao et al., https://github.com/DorisBao/BMAD)."""

from collections.abc import Sequence
from pathlib import Path

from detectors.errors import UserError
from latent_env.data.dataset import Dataset, check_size
from latent_env.data.folder import check_all_masked, pair_masks
from latent_env.data.images import (
    Sample,
    check_limit,
    decide_channels,
    find_folder,
    list_folders,
    list_images,
    read_split,
    spread,
)

LAYOUT = """\
  train/good/img/*.png               normal images to learn from
  valid/{good,Ungood}/img/*.png      valid may be called val
  test/{good,Ungood}/img/*.png       images may lie directly in good and Ungood, without img
  {valid,test}/Ungood/anomaly_mask/*.png   masks, or in label, named as their images"""

WHERE_TO_GET_IT = (
    "BMAD comes from its authors: https://github.com/DorisBao/BMAD links the download "
    "(licence CC BY-NC-SA 4.0, not for commercial use)."
)


def load_bmad_dataset(
    data_root: str | Path,
    name: str,
    size: int,
    channels: int | None = None,
    folders: Sequence[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Load one of BMAD's data sets; the splits are its own.

    Images of any shape are stretched to ``size`` × ``size`` pixels.

    :param data_root: the folder that holds the data set's folder (perhaps in a folder bmad), or that
        folder itself.
    :param name: what the data set is called; ``bmad_liver`` is looked for as Liver or
        Liver_AD, in any case.
    :param size: side in pixels, a multiple of 8 from 8 to 256.
    :param channels: 1 for grey, 3 for RGB, None for what the training images are.
    :param folders: folder names to look for instead.
    :param limit: read at most so many normal and so many anomalous images of each split.
    :param progress: show progress bars.
    """
    check_size(size)
    check_limit(limit)
    root = _find_root(Path(data_root).expanduser(), name, folders or folder_names(name))
    train = _read_folder(root, 0, "train")
    valid_good = _read_folder(root, 0, "valid", "val")
    valid_bad = _read_folder(root, 1, "valid", "val")
    test_good = _read_folder(root, 0, "test")
    test_bad = _read_folder(root, 1, "test")
    for what, samples in (
        ("train/good", train),
        ("valid/good", valid_good),
        ("test/good", test_good),
        ("test/Ungood", test_bad),
    ):
        if not samples:
            raise UserError(f"{root} holds no images in {what}. Expected there:\n{LAYOUT}\n{WHERE_TO_GET_IT}")
    check_all_masked(valid_bad + test_bad, "Ungood/anomaly_mask/<same name>")
    masked = any(sample.mask for sample in test_bad)
    channels = decide_channels(train, channels)
    splits = {
        split: read_split(samples, size, channels, masked, progress, f"{name} {split}")
        for split, samples in {
            "train": spread(train, limit),
            "valid": spread(valid_good, limit) + spread(valid_bad, limit),
            "test": spread(test_good, limit) + spread(test_bad, limit),
        }.items()
    }
    return Dataset(name, **splits)


def folder_names(name: str) -> tuple[str, ...]:
    """What the folder of ``name`` may be called, in any case: ``bmad_liver`` is Liver or Liver_AD."""
    title = name.removeprefix("bmad_").capitalize()
    return title, f"{title}_AD"


def _find_root(data_root: Path, name: str, names: Sequence[str]) -> Path:
    """The folder with ``train/good``: one of ``names``, or up to two levels below it, or data_root."""
    # Copies in circulation nest the splits, for example in Liver/Train/hist_DIY.
    for parent in (data_root, data_root / "bmad"):
        for place in filter(None, (find_folder(parent, folder) for folder in names)):
            inner = list_folders(place)
            innermost = [deep for folder in inner for deep in list_folders(folder)]
            for root in (place, *inner, *innermost):
                if _holds_splits(root):
                    return root
    if _holds_splits(data_root):  # and no deeper, or it would find other data sets
        return data_root
    parents = (data_root.absolute(), data_root.absolute() / "bmad")
    places = [*(parent / folder for parent in parents for folder in names), parents[0]]
    looked = "\n".join(f"  {place}" for place in places)
    raise UserError(
        f"The data set {name} is not there. Looked for train/good and test in (capitals don't matter)\n"
        f"{looked}\nExpected in one of them:\n{LAYOUT}\n{WHERE_TO_GET_IT}\n"
        "If it lies elsewhere, name the folder that holds it: data_root=/path."
    )


def _holds_splits(root: Path) -> bool:
    train = find_folder(root, "train")
    return bool(train and find_folder(train, "good") and find_folder(root, "test"))


def _read_folder(root: Path, label: int, *splits: str) -> list[Sample]:
    """The samples of a split's ``good`` (label 0) or ``Ungood`` (label 1) folder."""
    split = find_folder(root, *splits)
    folder = find_folder(split, "Ungood" if label else "good") if split else None
    if folder is None:
        return []
    images = list_images(find_folder(folder, "img") or folder)
    mask_folder = find_folder(folder, "anomaly_mask", "label") if label else None
    pairs = pair_masks(images, list_images(mask_folder)) if mask_folder else {}
    return [Sample(path, label, path.relative_to(root).as_posix(), pairs.get(path)) for path in images]
