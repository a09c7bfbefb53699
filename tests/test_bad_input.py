"""Bad files and hopeless data sets are named, or bad files skipped if one wants that; odd names are read."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from odd_files import ANOMALY, MASK, TRAIN, load, noise
from PIL import Image
from small_datasets import SIDE, SmallDataset, make_bmad, make_mvtec, read, save

from latent_common.errors import UserError
from latent_env.data import (
    MVTEC,
    Parts,
    Problems,
    Splitting,
    bmad_source,
    collection_source,
    folder_source,
    mnist_source,
)
from latent_env.data.images import open_image


def png_claiming(width: int, height: int, bits: int = 8, kind: int = 0) -> bytes:
    """A PNG of a few bytes whose head claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# --- bad files, one by one ---


@dataclass(frozen=True)
class Flaw:
    """What goes wrong in a data set, what is said about each file, and which images can't be used then."""

    spoil: Callable[[Path], object]
    log: tuple[str, ...]
    gone: tuple[str, ...]


def holding(path: str, content: bytes, log: str, gone: str | None = None) -> Flaw:
    """A file with this content."""
    return Flaw(lambda root: (root / path).write_bytes(content), (f"{path} {log}",), (gone or path,))


def cut(ending: str) -> Flaw:
    """An image of some format, half of which is lost."""

    def spoil(root: Path) -> None:
        path = save((root / ANOMALY).with_suffix(ending), noise(SIDE, SIDE, 3))
        if ending != ".png":
            (root / ANOMALY).unlink()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return Flaw(spoil, (f"{ANOMALY.replace('.png', ending)} can't be read as an image",), (ANOMALY,))


def several(ending: str, log: str) -> Flaw:
    """A file of three images."""

    def spoil(root: Path) -> None:
        first, *rest = (Image.fromarray(noise(SIDE, SIDE, 3) // n) for n in (1, 2, 3))
        (root / TRAIN).unlink()
        first.save((root / TRAIN).with_suffix(ending), save_all=True, append_images=rest)

    return Flaw(spoil, (f"{TRAIN.replace('.png', ending)} {log}",), (TRAIN,))


def stored_as(ending: str, pixels: NDArray[Any], log: str) -> Flaw:
    def spoil(root: Path) -> None:
        (root / TRAIN).unlink()
        save((root / TRAIN).with_suffix(ending), pixels)

    return Flaw(spoil, (f"{TRAIN.replace('.png', ending)} {log}",), (TRAIN,))


def linked(path: str, target: str, log: str, gone: str | None = None) -> Flaw:
    def spoil(root: Path) -> None:
        (root / path).unlink()
        (root / path).symlink_to(target)

    return Flaw(spoil, (f"{path} {log}",), (gone or path,))


def without(*paths: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        for path in paths:
            if (root / path).is_dir():
                shutil.rmtree(root / path)
            else:
                (root / path).unlink()

    return act


def copied(path: str, to: str) -> Callable[[Path], object]:
    return lambda root: Image.open(root / path).save(root / to)


FLAWS = {
    "truncated": cut(".png"),
    "truncated jpg": cut(".jpg"),
    "truncated bmp": cut(".bmp"),
    "truncated tif": cut(".tif"),
    "truncated webp": cut(".webp"),
    "zero bytes": holding(TRAIN, b"", r"is empty \(0 bytes\)"),
    "text": holding(TRAIN, b"this is no image\n" * 9, "can't be read as an image"),
    "bomb": holding(TRAIN, png_claiming(60000, 60000), "claims to be larger than the 80,000,000 pixels"),
    "large": holding(TRAIN, png_claiming(9000, 9000), "claims 9000×9000 pixels, more than the 80,000,000"),
    "animated png": several(".png", "holds 3 images"),
    "animated webp": several(".webp", "holds 3 images"),
    "pages": several(".tif", "holds 3 images"),
    "floats": stored_as(".tif", np.zeros((SIDE, SIDE), np.float32), "holds floating-point pixels"),
    "more than 16 bits": stored_as(
        ".tif", np.full((SIDE, SIDE), 70000, np.int32), "holds values from 70000 to 70000, more than 16 bits"
    ),
    "below zero": stored_as(".tif", np.full((SIDE, SIDE), -5, np.int32), "holds values from -5 to -5"),
    "dead link": linked(TRAIN, "nowhere.png", "is a link that leads nowhere"),
    "link to itself": linked(TRAIN, "002.png", "can't be opened"),
    "link to a link to it": linked(ANOMALY, "../../" + ANOMALY, "can't be opened"),
    "dead link to a mask": linked(MASK, "nowhere.png", "is a link that leads nowhere", ANOMALY),
    "broken mask": holding(MASK, b"no mask", "can't be read as an image", ANOMALY),
    "empty mask file": holding(MASK, b"", "is empty", ANOMALY),
    "mask of another size": Flaw(
        lambda root: save(root / MASK, np.zeros((6, 10), np.uint8)),
        (f"{MASK}: the mask is 10×6 pixels, but its image .*{ANOMALY} is 16×16",),
        (ANOMALY,),
    ),
    "image without mask": Flaw(
        without(MASK), (f"{ANOMALY}: this anomalous image has no mask although others have one",), (ANOMALY,)
    ),
    "kind without masks": Flaw(
        without("ground_truth/dent"),
        ("test/dent/000.png: .* has no mask", f"{ANOMALY}: .* has no mask"),
        ("test/dent/000.png", ANOMALY),
    ),
    "mask without image": Flaw(
        without(ANOMALY), (f"{MASK}: this mask has no image of the same name in .*test/dent",), (ANOMALY,)
    ),
    "kind without images": Flaw(
        without("test/dent"),
        (r"ground_truth/dent holds masks, but there is no .*test/dent",),
        ("test/dent/000.png", ANOMALY),
    ),
    "two images for one mask": Flaw(
        copied(ANOMALY, "test/dent/001.bmp"),
        (
            "test/dent/001.(bmp|png): 001.(bmp|png), 001.(bmp|png) have the same name",
            "test/dent/001.(bmp|png): .* so whose mask is meant is unknown",
        ),
        (ANOMALY,),
    ),
    "two masks for one image": Flaw(
        copied(MASK, "ground_truth/dent/001.png"),
        (f"{ANOMALY}: 001_mask.png, 001.png are all masks of it. Keep one of them",),
        (ANOMALY,),
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_file_stops_and_is_named(tmp_path: Path, widget: SmallDataset, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    with pytest.raises(UserError, match=FLAWS[flaw].log[0]) as error:
        load(widget.root, tmp_path)
    assert "dataset.on_error=skip" in str(error.value)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_file_is_skipped_counted_and_named(tmp_path: Path, widget: SmallDataset, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    problems = Problems("skip")
    dataset = load(widget.root, tmp_path, problems)
    for split in widget.splits.values():
        for name in FLAWS[flaw].gone:
            split.pop(name, None)
    widget.check(dataset)
    log = FLAWS[flaw].log
    assert len(problems.skipped) == len(log)
    for message, pattern in zip(problems.skipped, log, strict=True):
        assert re.search(pattern, message)
    files = "files" if len(log) > 1 else "file"
    assert dataset.remarks[-1].startswith(f"skipped {len(log)} {files} (dataset.on_error=skip):\n")
    for pattern in log:
        assert re.search(pattern, dataset.remarks[-1])


@pytest.mark.parametrize("flaw", ["truncated", "two masks for one image"])
def test_what_was_skipped_is_said_again_next_time(tmp_path: Path, widget: SmallDataset, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    first = load(widget.root, tmp_path, Problems("skip"))
    again = load(widget.root, tmp_path, Problems("skip"))
    assert again.remarks == first.remarks
    assert again.folder == first.folder
    with pytest.raises(UserError, match=FLAWS[flaw].log[0]):
        load(widget.root, tmp_path)


def test_many_skipped_files_are_counted_and_some_named(tmp_path: Path, widget: SmallDataset) -> None:
    for i in range(20):
        (widget.root / f"train/good/broken {i:02d}.png").write_bytes(b"broken")
    remark = load(widget.root, tmp_path, Problems("skip")).remarks[-1]
    assert remark.startswith("skipped 20 files")
    assert remark.count("can't be read as an image") == 5
    assert remark.endswith("… and 15 more")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_pillow_only_warns_of_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_claiming(12000, 12000))
    with pytest.raises(UserError, match="claims 12000×12000 pixels"):
        open_image(path, SIDE)
    for bits, kind, mode in ((16, 6, "RGBA"), (16, 0, "I;16"), (8, 4, "LA")):
        path.write_bytes(png_claiming(8000, 8000, bits, kind))
        with pytest.raises(UserError, match=f"claims 8000×8000 .* 40,000,000 that are read in mode {mode}"):
            open_image(path, SIDE)


@pytest.mark.parametrize("kind", ["GIF", "ICO", "PPM", "TGA", "PDF", "EPS"])
def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(noise(SIDE, SIDE, 3)).save(path, format=kind)
    with pytest.raises(UserError, match="another kind than its name says"):
        open_image(path, SIDE)


def test_a_device_or_pipe_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(UserError, match=f"{name} is (no regular file|empty)"):
            open_image(tmp_path / name, SIDE)


@pytest.mark.parametrize("split", ["train", "test"])
def test_where_everything_is_broken_nothing_can_be_skipped(
    tmp_path: Path, widget: SmallDataset, split: str
) -> None:
    for path in (widget.root / split).rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match=rf"no normal image is left in {split}\. Skipped were(.|\n)*000\.png"):
        load(widget.root, tmp_path, Problems("skip"))


def test_where_all_anomalies_are_broken_nothing_can_be_measured(tmp_path: Path, widget: SmallDataset) -> None:
    for path in (widget.root / "ground_truth").rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no anomalous image is left in test\. Skipped were"):
        load(widget.root, tmp_path, Problems("skip"))


@pytest.mark.parametrize("on_error", ["ignore", "", "STOP"])
def test_what_to_do_about_bad_files_must_be_known(on_error: str) -> None:
    with pytest.raises(UserError, match=f"dataset.on_error={on_error} is unknown: choose stop or skip"):
        Problems(on_error)


# --- data sets that can't be used, whatever is skipped ---


def only(count: int) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        for path in sorted((root / "train/good").iterdir())[count:]:
            path.unlink()

    return act


def root_is_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


HOPELESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (shutil.rmtree, r"widget does not exist(.|\n)*train/good(.|\n)*dataset.root="),
    "root is a file": (root_is_file, "widget is a file"),
    "no train": (without("train"), r"train/good does not exist(.|\n)*ground_truth"),
    "no train/good": (without("train/good"), r"train/good does not exist(.|\n)*ground_truth"),
    "no test/good": (without("test/good"), "test/good does not exist"),
    "no normal image": (only(0), "train/good holds no images"),
    "one normal image": (only(1), "train/good holds one image only"),
    "no normal test image": (
        without("test/good/000.png", "test/good/001.png"),
        "test/good holds no images",
    ),
}


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("flaw", HOPELESS)
def test_a_hopeless_data_set_says_what_it_lacks(
    tmp_path: Path, widget: SmallDataset, flaw: str, on_error: str
) -> None:
    spoil, message = HOPELESS[flaw]
    spoil(widget.root)
    with pytest.raises(UserError, match=message):
        load(widget.root, tmp_path, Problems(on_error))


def test_a_single_image_is_no_data_set(tmp_path: Path) -> None:
    root = tmp_path / "widget"
    for name, message in (
        ("train/good/0.png", "holds one image only"),
        ("test/good/0.png", "holds one image only"),
    ):
        save(root / name, noise(SIDE, SIDE))
        with pytest.raises(UserError, match=message):
            load(root, tmp_path)


# --- what can't be read because somebody forbids it ---


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may look into, unlike those that pytest makes."""
    folder = Path(tempfile.mkdtemp(dir="/tmp" if Path("/tmp").is_dir() else None))
    folder.chmod(0o755)
    (folder / "prepared").mkdir()
    (folder / "prepared").chmod(0o777)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """Nobody may read ``path``; and root, who may read everything, is nobody."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    codecs.lookup("cp437")  # of archives: nobody can't import it, and Python wouldn't try again
    path.chmod(0)
    try:
        if is_root:
            os.seteuid(65534)
        try:
            if os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
                pytest.skip("permissions don't count here")
            yield
        finally:
            if is_root:
                os.seteuid(0)
    finally:
        path.chmod(0o755)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("place", ["train", "train/good", "test/dent", "ground_truth/dent"])
def test_a_folder_that_cant_be_read_is_named(public: Path, on_error: str, place: str) -> None:
    make_mvtec(public / "widget")
    with (
        forbidden(public / "widget" / place),
        pytest.raises(UserError, match=rf"widget/{place}: this folder can't be read \(.*chmod u\+rx"),
    ):
        load(public / "widget", public, Problems(on_error))


def test_a_file_that_cant_be_read_is_named_or_skipped(public: Path) -> None:
    written = make_mvtec(public / "widget")
    problems = Problems("skip")
    with forbidden(written.root / TRAIN):
        with pytest.raises(UserError, match=rf"{TRAIN} can't be opened \(Permission denied\)"):
            load(written.root, public)
        dataset = load(written.root, public, problems)
    del written.splits["train"][TRAIN]
    written.check(dataset)
    assert len(problems.skipped) == 1


def test_a_folder_beside_the_data_set_may_be_forbidden(public: Path) -> None:
    make_mvtec(public / "data/mvtec/bottle")
    (public / "data/lost+found").mkdir()
    with forbidden(public / "data/lost+found"):
        source = collection_source(MVTEC, public / "data", "bottle", Splitting(), Problems())
        with pytest.raises(UserError, match=r"lost\+found/\n    \(can't be read\)"):
            mnist_source(public / "data", 3, Splitting())
    assert source.name == "mvtec_bottle"


# --- links and names ---


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    written = SmallDataset(tmp_path / "data")
    for i in range(3):
        written.add("train", f"ok/inner/{i}.png")
        written.add("test", f"fine/{i}.png")
        written.add("test", f"bad/{i}.png", 1)
    (written.root / "ok/inner/outer").symlink_to(written.root / "ok")
    (written.root / "ok/self").symlink_to("self")
    (written.root / "ok/zigzag").symlink_to("inner/back")
    (written.root / "ok/inner/back").symlink_to("../zigzag")
    named = Parts("ok", "bad", "fine")
    written.check(read(folder_source(written.root, "", named, Splitting(), Problems()), tmp_path))


def test_a_circle_around_a_data_set_does_not_hide_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    written = make_bmad(data / "Liver")
    (data / "Liver/again").symlink_to(data)
    (data / "all").symlink_to(data)
    written.check(read(bmad_source(data, "bmad_liver", Splitting(), Problems()), tmp_path))
    with pytest.raises(UserError, match="Found in"):
        bmad_source(data, "bmad_resc", Splitting(), Problems())


def test_linked_images_and_folders_are_read(tmp_path: Path, widget: SmallDataset) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in (TRAIN, ANOMALY, MASK, "test/good", "ground_truth/scratch"):
        moved = (widget.root / name).rename(there / name.replace("/", " "))
        (widget.root / name).symlink_to(moved)
    widget.check(load(widget.root, tmp_path))


@pytest.mark.parametrize("name", ["with spaces", "größe ß", "肝臓 の 画像", "a.b.c", "[0-9]*?", "'\"$HOME"])
def test_any_name_is_read(tmp_path: Path, name: str) -> None:
    written = make_mvtec(tmp_path / f"set {name}", defects=[name])
    written.add("train", f"train/good/{name}.png")
    written.add("test", f"test/{name}/{name}.png", 1, f"ground_truth/{name}/{name}_mask.png")
    dataset = load(written.root, tmp_path)
    written.check(dataset)
    assert dataset.name == f"set {name}"


def test_names_that_are_no_text_are_read(tmp_path: Path, widget: SmallDataset) -> None:
    name = os.fsdecode(b"t\xe9st")
    try:
        widget.add("train", f"train/good/{name}.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only text")
    widget.check(load(widget.root, tmp_path))
    widget.check(load(widget.root, tmp_path))
    (widget.root / f"train/good/{name}.png").write_bytes(b"broken")
    problems = Problems("skip")
    load(widget.root, tmp_path, problems)
    assert "can't be read as an image" in problems.skipped[0]


def test_normal_images_of_one_name_are_both_read(tmp_path: Path, widget: SmallDataset) -> None:
    widget.add("train", "train/good/000.bmp")
    widget.add("test", "test/good/000.bmp")
    widget.check(load(widget.root, tmp_path))


def test_anomalies_of_one_name_are_both_read_without_masks(tmp_path: Path, widget: SmallDataset) -> None:
    widget.add("test", "test/dent/000.bmp", 1)
    shutil.rmtree(widget.root / "ground_truth")
    widget.masked = False
    widget.check(load(widget.root, tmp_path))
