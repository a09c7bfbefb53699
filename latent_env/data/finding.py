"""Finding images and folders on disk, in any case and nesting, without running in circles."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from latent_common.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".rar", ".7z")
TREE_DEPTH, TREE_LINES = 5, 30


def list_images(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted by name; none if there is no such folder.

    Broken links are listed too; opening them gives an error that names them.
    """
    found = [
        Path(entry.path)
        for entry in _entries(folder)
        if _is_image(entry.name) and (_is_file(entry) or (entry.is_symlink() and not _is_folder(entry)))
    ]
    return sorted(found, key=lambda path: path.name)


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in ``folder``, sorted by name, without hidden ones."""
    found = [
        Path(entry.path) for entry in _entries(folder) if entry.name[0] not in "._" and _is_folder(entry)
    ]
    return sorted(found, key=lambda path: path.name)


def walk_images(folder: Path) -> list[Path]:
    """The image files in ``folder`` and all folders below it, each folder visited once."""
    seen: set[tuple[int, int]] = set()

    def walk(place: Path) -> Iterator[Path]:
        about = place.stat()
        if (about.st_dev, about.st_ino) in seen:  # a link back to where we come from
            return
        seen.add((about.st_dev, about.st_ino))
        yield from list_images(place)
        for inner in list_folders(place):
            yield from walk(inner)

    return list(walk(folder)) if folder.is_dir() else []


def find_folder(parent: Path, *names: str) -> Path | None:
    """The folder in ``parent`` with the first of these names that is there, in any case."""
    folders = {path.name.lower(): path for path in reversed(list_folders(parent))}
    return next((folders[name.lower()] for name in names if name.lower() in folders), None)


def find_file(parent: Path, *names: str) -> Path | None:
    """The file in ``parent`` with the first of these names that is there, in any case."""
    files = {entry.name.lower(): Path(entry.path) for entry in _entries(parent) if _is_file(entry)}
    return next((files[name.lower()] for name in names if name.lower() in files), None)


def places(data_root: Path, aliases: Sequence[str]) -> Iterator[Path]:
    """Folders that may hold a data set, the likeliest first.

    Those called as one of ``aliases`` (capitals, spaces, dashes and underscores don't matter) in
    ``data_root`` or in a folder of it, then what lies up to two levels below them, then
    ``data_root`` itself.
    """
    wanted = [_plain(alias) for alias in aliases]
    outer = list_folders(data_root)
    named = []
    for level in (outer, [inner for folder in outer for inner in _inside(folder)]):
        matches = [folder for folder in level if _plain(folder.name) in wanted]
        named += sorted(matches, key=lambda folder: wanted.index(_plain(folder.name)))
    yield from named
    for folder in named:
        inside = list_folders(folder)
        yield from inside
        for inner in inside:
            yield from _inside(inner)
    yield data_root


def _inside(folder: Path) -> list[Path]:
    """Its folders; none if it can't be read, such as ``lost+found`` beside a data set."""
    with contextlib.suppress(UserError):
        return list_folders(folder)
    return []


def find_place(data_root: Path, aliases: Sequence[str], holds: Callable[[Path], bool]) -> Path | None:
    """The first of :func:`places` that ``holds`` the data set."""
    return next((place for place in places(data_root, aliases) if holds(place)), None)


def not_found_error(
    name: str, data_root: Path, aliases: Sequence[str], expected: str, origin: str
) -> UserError:
    """The error for a data set that wasn't found: what was expected, what was found, where to get it.

    :param aliases: the folder names that were looked for.
    :param expected: the tree below such a folder.
    :param origin: where the data set comes from, in a sentence.
    """
    names = " or ".join(f"{alias}/" for alias in aliases)
    return UserError(
        f"the data set {name} is not below data_root={data_root.absolute()}\n"
        f"Expected there (capitals don't matter), or in a folder of it: {names} with\n{expected}\n"
        f"{show_tree(data_root)}\n{origin}\n"
        "If it lies elsewhere, name the folder that holds it: data_root=/path (or LATENT_AUG_DATA)."
    )


def show_tree(folder: Path) -> str:
    """What ``folder`` holds, a few levels deep: folders with their counts of images, and archives."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return f"Found: {folder.absolute()} {what}."
    lines: list[str] = []
    _grow(folder, 1, lines)
    if not lines:
        return f"Found: {folder.absolute()} is empty."
    more = ["  …"] if len(lines) > TREE_LINES else []
    return "\n".join([f"Found in {folder.absolute()}:", *lines[:TREE_LINES], *more])


def _grow(folder: Path, depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    try:
        files = [entry.name for entry in _entries(folder) if _is_file(entry)]
    except UserError:
        lines.append(f"{indent}(can't be read)")
        return
    archives = [name for name in files if name.lower().endswith(ARCHIVES)]
    images = len(list_images(folder))
    others = len(files) - len(archives) - images
    lines += [
        f"{indent}{count} {what}"
        for count, what in ((images, "images"), (others, "other files"))
        if count > 0
    ]
    lines += [f"{indent}{name}  (an archive: unpack it first)" for name in sorted(archives)]
    for inner in list_folders(folder):
        if len(lines) > TREE_LINES:
            return
        lines.append(f"{indent}{inner.name}/")
        if depth < TREE_DEPTH:
            _grow(inner, depth + 1, lines)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"{folder}: this folder can't be read ({error.strerror}). Change its permissions (chmod u+rx), "
            "or move it out of the data set."
        ) from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
