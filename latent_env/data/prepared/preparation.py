"""Preparing a data set: decoding and resizing it once, and finding it prepared afterwards."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_common.digest import digest_of
from latent_common.errors import UserError
from latent_common.lock import LOCK, locked, remove_abandoned
from latent_env import __version__
from latent_env.data.dataset import Dataset, Split, check_size
from latent_env.data.prepared.decoding import decode_all
from latent_env.data.layouts.textures import texture_samples
from latent_env.data.prepared.overview import save_overview
from latent_env.data.samples import FileSample, Problems, Source, files_of
from latent_env.data.prepared.split_files import open_split

FORMAT = 1
"""Raised when images are prepared differently than before: older preparations are then made again."""

DESCRIPTION = "prepared.json"
ABANDONED_AFTER = 24 * 3600
"""An unfinished preparation is removed after so many seconds: the process that made it was killed."""

UNFINISHED = re.compile(r"\.\d+-[0-9a-f]{10}\..+")
"""Names of unfinished preparations; a user's own hidden folders may lie beside them."""

NOT_MEASURABLE = (
    "test has no anomalous images: detectors are measured by false alarms on its normal ones, and by labelled "
    "anomalies that they didn't learn from"
)
"""A remark on a test split of normal images."""

OUTDATED = ".old"
"""What is added to the name of an unfinished preparation for one that it replaces."""

_in_use: set[str] = set()
"""Names of the unfinished preparations of this process; its threads may prepare the same at once."""


@dataclass(frozen=True)
class Prepared:
    """The splits of a prepared data set, and its facts from ``prepared.json``."""

    folder: Path
    splits: dict[str, Split]
    facts: dict[str, Any]


def prepare(source: Source, size: int, folder: Path, problems: Problems, progress: bool = True) -> Dataset:
    """The data set at ``size`` × ``size`` pixels, from ``folder`` if it was prepared there before.

    Its images stay on disk until they are used.

    :param folder: of all preparations, also of other data sets.
    :param progress: show a progress bar when there are many files.
    """
    prepared = prepare_splits(source, size, folder, problems, progress)
    normal_only = [] if prepared.splits["test"].measurable else [NOT_MEASURABLE]
    smallest, largest = prepared.facts["native"]
    return Dataset(
        source.name,
        prepared.splits["train"],
        prepared.splits["valid"],
        prepared.splits["test"],
        native=((smallest[0], smallest[1]), (largest[0], largest[1])),
        remarks=(*source.remarks, *normal_only, *prepared.facts["remarks"], *problems.remarks()),
        digest=prepared.facts["digest"],
        folder=prepared.folder,
        files={each.name: each.path for each in source.splits["train"] if isinstance(each, FileSample)},
    )


def prepare_textures(root: Path, size: int, channels: int, folder: Path, problems: Problems) -> Prepared:
    """The images below ``root``, prepared like a data set with one split called ``textures``."""
    samples = texture_samples(root)
    settings = {"root": str(root.resolve())}
    source = Source("textures", {"textures": samples}, files_of(samples), settings, channels)
    return prepare_splits(source, size, folder, problems)


def prepare_splits(
    source: Source, size: int, folder: Path, problems: Problems, progress: bool = True
) -> Prepared:
    """The splits of ``source`` as files that ``np.load`` opens, found or made now.

    Each is an ``.npz`` with ``images (N, C, H, W)`` uint8, ``labels``, ``names`` and, where there are
    masks, ``masks (N, H, W)`` bool; ``prepared.json`` describes them.
    """
    check_size(size)
    if source.channels not in (None, 1, 3):
        raise UserError(f"channels={source.channels} must be 1 (grey), 3 (RGB) or null (as the images are)")
    settings = {"format": FORMAT, "size": size, "channels": source.channels, **source.settings}
    key = digest_of(settings)
    target = folder / source.name / f"{size}-{key}"
    fingerprint = source.fingerprint()
    found = _open(target, source, fingerprint, problems)
    if found is not None:
        remove_abandoned(_lock_of(target))
        problems.skipped += found.facts["skipped"]
        return found
    with _unfinished(target, folder) as (made, waited):
        if waited and (found := _open(target, source, fingerprint, problems)) is not None:
            return found
        facts = decode_all(source, size, made, problems, progress)
        facts["settings"] = settings
        facts["source"] = {"fingerprint": fingerprint, "files": len(source.files)}
        facts["prepared_by"] = {"latent_env": __version__, "format": FORMAT}
        save_overview(made, source.splits)
        description = json.dumps(facts, indent=2) + "\n"
        (made / DESCRIPTION).write_text(description, encoding="utf-8")
        # Opened before they are moved: another process may remove them again, and they stay usable.
        splits = {split: open_split(made / f"{split}.npz") for split in source.splits}
        while not _moved(made, target):
            if (found := _open(target, source, fingerprint, problems)) is not None:
                return found  # another process was faster
            _remove(target, made.with_name(f"{made.name}{OUTDATED}"))
    return Prepared(target, splits, json.loads(description))


def _open(folder: Path, source: Source, fingerprint: str, problems: Problems) -> Prepared | None:
    """The preparation in ``folder``; None if there is none, or if it must be made again."""
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        outdated = facts["source"]["fingerprint"] != fingerprint
        if outdated or (facts["skipped"] and problems.on_error == "stop"):
            return None
        splits = {split: open_split(folder / f"{split}.npz", check=True) for split in source.splits}
        for split, counts in facts["splits"].items():
            if len(splits[split]) != counts["normal"] + counts["anomalous"]:
                return None
    except Exception:  # never prepared, or damaged since: a damaged archive raises anything
        return None
    return Prepared(folder, splits, facts)


@contextlib.contextmanager
def _unfinished(target: Path, root: Path) -> Iterator[tuple[Path, bool]]:
    """A new folder beside ``target``, which is removed at the end unless it was moved there.

    Other processes that prepare the same wait; it tells whether one was waited for.
    """
    _sweep(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(_lock_of(target)) as waited:
            _remove_left_behind(target)
            made = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
            _in_use.add(made.name)
            try:
                made.mkdir()
                yield made, waited
            finally:  # also on Ctrl-C
                shutil.rmtree(made, ignore_errors=True)
                _in_use.discard(made.name)
    except OSError as error:
        raise UserError(f"prepared={root}: can't write there ({error.strerror})") from error


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{target.name}{LOCK}")


def _remove_left_behind(target: Path) -> None:
    """Remove unfinished preparations of ``target`` by processes that were killed; its lock must be held."""
    for path in target.parent.glob(f".{target.name}.*/"):
        if path.name.removesuffix(OUTDATED) not in _in_use:
            shutil.rmtree(path, ignore_errors=True)


def _moved(made: Path, target: Path) -> bool:
    """Move ``made`` to ``target``; False if something is there."""
    try:
        os.replace(made, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _remove(outdated: Path, aside: Path) -> None:
    """Remove a folder in such a way that its name is free at once; it may have gone already."""
    with contextlib.suppress(FileNotFoundError):  # another process did it
        os.replace(outdated, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove unfinished preparations of processes that were killed long ago."""
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            unfinished = UNFINISHED.fullmatch(path.name) and path.is_dir()
            if unfinished and time.time() - path.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(path, ignore_errors=True)
