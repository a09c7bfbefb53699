"""Any folder: in MVTec AD's layout, or with its parts named as anomalib's ``Folder`` names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_common.errors import UserError
from latent_env.data.finding import show_tree, walk_images
from latent_env.data.layouts.mvtec import TREE, mvtec_source
from latent_env.data.layouts.pairing import only_masked, pair_masks
from latent_env.data.samples import FileSample, Problems, Source, files_of
from latent_env.data.splitting import Splitting


@dataclass(frozen=True)
class Parts:
    """The folders of each part, below the root or absolute; images may lie in sub-folders.

    :param normal_dir: normal images to learn from.
    :param abnormal_dir: anomalous images to test on; without them false alarms alone are measured.
    :param normal_test_dir: normal images to test on; without it a fifth of ``normal_dir``.
    :param mask_dir: masks of the anomalous images, with the same names.
    :param labelled_dir: anomalous images to learn from.
    """

    normal_dir: str | Sequence[str] | None = None
    abnormal_dir: str | Sequence[str] | None = None
    normal_test_dir: str | Sequence[str] | None = None
    mask_dir: str | Sequence[str] | None = None
    labelled_dir: str | Sequence[str] | None = None

    def __bool__(self) -> bool:
        return any(vars(self).values())


def folder_source(
    root: Path,
    name: str,
    parts: Parts,
    splitting: Splitting,
    problems: Problems,
    channels: int | None = None,
) -> Source:
    """A folder of a user; without ``parts`` it must have MVTec AD's layout."""
    name = name or root.resolve().name or "folder"
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(
            f"The data folder {root.absolute()} {what}. Expected there:\n{TREE}\n"
            "Name the folder that holds train and test: dataset.root=/path/to/folder. Where it is arranged "
            "otherwise, name its parts: dataset.normal_dir=… dataset.abnormal_dir=… dataset.labelled_dir=…"
        )
    if not parts:
        return mvtec_source(root, name, splitting, problems, channels)
    if not parts.normal_dir:
        raise UserError(
            f"dataset.normal_dir is missing: a folder named by its parts needs it.\n{show_tree(root)}"
        )
    if parts.mask_dir and not (parts.abnormal_dir or parts.labelled_dir):
        raise UserError(
            f"dataset.mask_dir={parts.mask_dir} needs dataset.abnormal_dir or dataset.labelled_dir: the "
            f"images that the masks are of.\n{show_tree(root)}"
        )
    normal = _samples(root, "normal_dir", parts.normal_dir, 0)
    if len(normal) < 2:
        raise UserError(f"dataset.normal_dir={parts.normal_dir} holds one image only, but two are the least")
    remarks = []
    if parts.normal_test_dir:
        test_normal = _samples(root, "normal_test_dir", parts.normal_test_dir, 0)
    else:
        normal, test_normal, remark = splitting.set_aside_test(normal, "normal_dir", "normal_test_dir")
        remarks.append(remark)
    anomalous = _samples(root, "abnormal_dir", parts.abnormal_dir, 1) if parts.abnormal_dir else []
    labelled = _samples(root, "labelled_dir", parts.labelled_dir, 1) if parts.labelled_dir else []
    masks = _samples(root, "mask_dir", parts.mask_dir, 1) if parts.mask_dir else []
    _check_apart(
        {
            "normal_dir": normal,
            "normal_test_dir": test_normal,
            "abnormal_dir": anomalous,
            "labelled_dir": labelled,
            "mask_dir": masks,
        }
    )
    if masks:
        expected, to_learn = "in mask_dir, of the same name", {sample.path for sample in labelled}
        marked = only_masked(_with_masks([*anomalous, *labelled], masks, problems), expected, problems)
        anomalous = [sample for sample in marked if sample.path not in to_learn]
        labelled = [sample for sample in marked if sample.path in to_learn]
    splits, more = splitting.divide(normal, test_normal, anomalous, labelled)
    settings: dict[str, Any] = {"root": str(root.resolve()), **splitting.settings()}
    settings["parts"] = {key: _listed(value) for key, value in vars(parts).items()}
    files = files_of([*normal, *test_normal, *anomalous, *labelled])
    return Source(name, splits, files, settings, channels, [*remarks, *more])


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


def _folders(root: Path, key: str, names: str | Sequence[str] | None) -> list[Path]:
    folders = [root / Path(name).expanduser() for name in _listed(names)]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"dataset.{key}={folder} is no folder.\n{show_tree(root)}")
    return folders


def _samples(root: Path, key: str, names: str | Sequence[str] | None, label: int) -> list[FileSample]:
    samples = []
    for folder in _folders(root, key, names):
        for path in walk_images(folder):
            inner = path.relative_to(folder)
            # A sub-folder is a kind of defect, but one with a number (patient07) is a group.
            is_kind = label == 1 and len(inner.parts) > 1 and not re.search(r"\d", inner.parts[0])
            kind = inner.parts[0] if is_kind else folder.name
            samples.append(FileSample(path, label, f"{folder.name}/{inner.as_posix()}", kind=kind))
    if not samples:
        raise UserError(
            f"dataset.{key}={names} holds no images (png, jpg, bmp, tif or webp).\n{show_tree(root)}"
        )
    return samples


def _check_apart(parts: dict[str, list[FileSample]]) -> None:
    """Raise a ``UserError`` if an image lies in two parts, as where one folder is inside another."""
    owners: dict[Path, str] = {}
    for key, samples in parts.items():
        for sample in samples:
            real = sample.path.resolve()
            if real in owners:
                where = f"both dataset.{owners[real]} and" if owners[real] != key else "two folders of"
                raise UserError(
                    f"{sample.path} lies in {where} dataset.{key}: name folders that don't contain each other"
                )
            owners[real] = key


def _with_masks(samples: list[FileSample], masks: list[FileSample], problems: Problems) -> list[FileSample]:
    """The samples with their masks; of several folders, those of the same name belong together."""
    tops = {_top(sample) for sample in samples}
    if len(tops) > 1 and tops == {_top(mask) for mask in masks}:
        groups = [
            ([s for s in samples if _top(s) == top], [m for m in masks if _top(m) == top])
            for top in sorted(tops)
        ]
    else:
        groups = [(samples, masks)]
    pairs: dict[Path, Path | None] = {}
    for some, theirs in groups:
        pairs |= _pair_places(some, theirs, problems)
    return [FileSample(s.path, s.label, s.name, pairs[s.path], s.kind) for s in samples if s.path in pairs]


def _pair_places(
    samples: list[FileSample], masks: list[FileSample], problems: Problems
) -> dict[Path, Path | None]:
    """Masks by the same place below their folder, or by name alone if they all lie directly in it."""
    flat = all(_place(mask) == "." for mask in masks)
    by_place: dict[str, list[Path]] = {}
    for sample in samples:
        by_place.setdefault("." if flat else _place(sample), []).append(sample.path)
    pairs: dict[Path, Path | None] = {}
    for place in sorted({_place(mask) for mask in masks} | by_place.keys()):
        there = sorted(mask.path for mask in masks if _place(mask) == place)
        pairs |= pair_masks(by_place.get(place, []), there, problems)
    return pairs


def _top(sample: FileSample) -> str:
    """The folder that was named, without those above it."""
    return Path(sample.name).parts[0]


def _place(sample: FileSample) -> str:
    """The folder that holds it, below the one that was named."""
    return Path(*Path(sample.name).parts[1:]).parent.as_posix()
