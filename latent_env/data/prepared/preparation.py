"""A data set is decoded and resized once, and found prepared from then on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_common.digest import digest_of
from latent_common.errors import UserError
from latent_env import __version__
from latent_env.data.dataset import Dataset, Split, check_size
from latent_env.data.prepared.decoding import decode_all
from latent_env.data.layouts.textures import texture_samples
from latent_env.data.prepared.overview import save_overview
from latent_env.data.samples import Problems, Source, files_of
from latent_env.data.prepared.split_files import open_split

FORMAT = 1
"""Raised when the same source would be prepared differently: older preparations are then redone."""

DESCRIPTION = "prepared.json"
ABANDONED_AFTER = 24 * 3600  # seconds after which a half preparation is nobody's
HALF = re.compile(r"\.\d+-[0-9a-f]{10}\..+")
"""What half preparations are called: hidden folders of a user's may lie beside them."""


@dataclass(frozen=True)
class Prepared:
    """Splits that lie ready on disk, and what their JSON says."""

    folder: Path
    splits: dict[str, Split]
    facts: dict[str, Any]


def prepare(source: Source, size: int, folder: Path, problems: Problems, progress: bool = True) -> Dataset:
    """The data set at ``size`` × ``size`` pixels, from ``folder`` if it was prepared there before.

    Its images stay on disk until they are looked at.

    :param folder: where preparations are kept, those of other data sets too.
    :param progress: show a progress bar when there are many files.
    """
    prepared = prepare_splits(source, size, folder, problems, progress)
    smallest, largest = prepared.facts["native"]
    return Dataset(
        source.name,
        prepared.splits["train"],
        prepared.splits["valid"],
        prepared.splits["test"],
        native=((smallest[0], smallest[1]), (largest[0], largest[1])),
        remarks=(*source.remarks, *prepared.facts["remarks"], *problems.remarks()),
        digest=prepared.facts["digest"],
        folder=prepared.folder,
    )


def prepare_textures(root: Path, size: int, channels: int, folder: Path, problems: Problems) -> Prepared:
    """The pictures below ``root`` as one split called ``textures``, prepared like a data set."""
    samples = texture_samples(root)
    settings = {"root": str(root.resolve())}
    source = Source("textures", {"textures": samples}, files_of(samples), settings, channels)
    return prepare_splits(source, size, folder, problems)


def prepare_splits(
    source: Source, size: int, folder: Path, problems: Problems, progress: bool = True
) -> Prepared:
    """The splits of ``source`` as files that ``np.load`` opens, made now or found.

    Each is an ``.npz`` with ``images (N, C, H, W)`` uint8, ``labels``, ``names`` and, where there is
    pixel truth, ``masks (N, H, W)`` bool; ``prepared.json`` says what they hold.
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
        problems.skipped += found.facts["skipped"]
        return found
    with _half_made(target, folder) as half:
        facts = decode_all(source, size, half, problems, progress)
        facts["settings"] = settings
        facts["source"] = {"fingerprint": fingerprint, "files": len(source.files)}
        facts["prepared_by"] = {"latent_env": __version__, "format": FORMAT}
        save_overview(half, source.splits)
        description = json.dumps(facts, indent=2) + "\n"
        (half / DESCRIPTION).write_text(description, encoding="utf-8")
        # Opened before they are moved: another process may remove them again, and they stay usable.
        splits = {split: open_split(half / f"{split}.npz") for split in source.splits}
        while not _moved(half, target):
            if (found := _open(target, source, fingerprint, problems)) is not None:
                return found  # another process was faster
            _remove(target, half.with_name(f"{half.name}.old"))
    return Prepared(target, splits, json.loads(description))


def _open(folder: Path, source: Source, fingerprint: str, problems: Problems) -> Prepared | None:
    """What was prepared in ``folder``, or None if it must be prepared (again)."""
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        outdated = facts["source"]["fingerprint"] != fingerprint
        if outdated or (facts["skipped"] and problems.on_error == "stop"):
            return None
        splits = {split: open_split(folder / f"{split}.npz") for split in source.splits}
        for split, counts in facts["splits"].items():
            if len(splits[split]) != counts["normal"] + counts["anomalous"]:
                return None
    except Exception:  # never prepared, or damaged since: a damaged archive raises anything
        return None
    return Prepared(folder, splits, facts)


@contextlib.contextmanager
def _half_made(target: Path, root: Path) -> Any:
    """A folder beside ``target``, which vanishes at the end unless it was put in its place."""
    _sweep(target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        half.chmod(0o755)
    except OSError as error:
        raise UserError(f"prepared={root}: can't write there ({error.strerror})") from error
    try:
        yield half
    except OSError as error:
        raise UserError(f"prepared={root}: can't write there ({error.strerror})") from error
    finally:  # also on Ctrl-C: no half file stays
        shutil.rmtree(half, ignore_errors=True)


def _moved(half: Path, target: Path) -> bool:
    """Move ``half`` to ``target``; False if something is there."""
    try:
        os.replace(half, target)
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
    """Remove what preparations left that were killed long ago."""
    for half in folder.glob(".*"):
        with contextlib.suppress(OSError):
            abandoned = HALF.fullmatch(half.name) and half.is_dir()
            if abandoned and time.time() - half.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(half, ignore_errors=True)
