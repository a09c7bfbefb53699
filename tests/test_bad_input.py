"""Files as they really are: odd ones are read rightly, bad ones are named, or skipped if one wants that."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import SIDE, Miniature, make_bmad, make_mvtec, read, save
from numpy.typing import NDArray
from PIL import Image

from detectors.errors import UserError
from latent_env.data import (
    MVTEC,
    Dataset,
    Parts,
    Problems,
    Splitting,
    bmad_source,
    collection_source,
    folder_source,
    mnist_source,
)
from latent_env.data.images import open_image, open_mask, shrink_image, shrink_mask

Pixels = NDArray[np.uint8]

ORIENTATION = 0x0112


def load(
    root: Path, tmp_path: Path, problems: Problems | None = None, channels: int | None = None
) -> Dataset:
    problems = problems or Problems()
    source = folder_source(root, "", Parts(), Splitting(valid_fraction=0.34), problems, channels)
    return read(source, tmp_path, problems)


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# --- bad files, one by one ---

TRAIN, ANOMALY, MASK = "train/good/002.png", "test/dent/001.png", "ground_truth/dent/001_mask.png"


@dataclass(frozen=True)
class Flaw:
    """What goes wrong in a data set, what is said about each file, and which images can't be used then."""

    spoil: Callable[[Path], object]
    said: tuple[str, ...]
    gone: tuple[str, ...]


def holding(path: str, content: bytes, said: str, gone: str | None = None) -> Flaw:
    """A file with this content."""
    return Flaw(lambda root: (root / path).write_bytes(content), (f"{path} {said}",), (gone or path,))


def cut(ending: str) -> Flaw:
    """An image of some format, half of which is lost."""

    def spoil(root: Path) -> None:
        path = save((root / ANOMALY).with_suffix(ending), noise(SIDE, SIDE, 3))
        if ending != ".png":
            (root / ANOMALY).unlink()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return Flaw(spoil, (f"{ANOMALY.replace('.png', ending)} can't be read as an image",), (ANOMALY,))


def several(ending: str, said: str) -> Flaw:
    """A file of three images."""

    def spoil(root: Path) -> None:
        first, *rest = (Image.fromarray(noise(SIDE, SIDE, 3) // n) for n in (1, 2, 3))
        (root / TRAIN).unlink()
        first.save((root / TRAIN).with_suffix(ending), save_all=True, append_images=rest)

    return Flaw(spoil, (f"{TRAIN.replace('.png', ending)} {said}",), (TRAIN,))


def stored_as(ending: str, pixels: NDArray[Any], said: str) -> Flaw:
    def spoil(root: Path) -> None:
        (root / TRAIN).unlink()
        save((root / TRAIN).with_suffix(ending), pixels)

    return Flaw(spoil, (f"{TRAIN.replace('.png', ending)} {said}",), (TRAIN,))


def linked(path: str, target: str, said: str, gone: str | None = None) -> Flaw:
    def spoil(root: Path) -> None:
        (root / path).unlink()
        (root / path).symlink_to(target)

    return Flaw(spoil, (f"{path} {said}",), (gone or path,))


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
def test_a_bad_file_stops_and_is_named(tmp_path: Path, widget: Miniature, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    with pytest.raises(UserError, match=FLAWS[flaw].said[0]) as error:
        load(widget.root, tmp_path)
    assert "dataset.on_error=skip" in str(error.value)


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_bad_file_is_skipped_counted_and_named(tmp_path: Path, widget: Miniature, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    problems = Problems("skip")
    dataset = load(widget.root, tmp_path, problems)
    for split in widget.splits.values():
        for name in FLAWS[flaw].gone:
            split.pop(name, None)
    widget.check(dataset)
    said = FLAWS[flaw].said
    assert len(problems.skipped) == len(said)
    for message, pattern in zip(problems.skipped, said, strict=True):
        assert re.search(pattern, message)
    files = "files" if len(said) > 1 else "file"
    assert dataset.remarks[-1].startswith(f"skipped {len(said)} {files} (dataset.on_error=skip):\n")
    for pattern in said:
        assert re.search(pattern, dataset.remarks[-1])


@pytest.mark.parametrize("flaw", ["truncated", "two masks for one image"])
def test_what_was_skipped_is_said_again_next_time(tmp_path: Path, widget: Miniature, flaw: str) -> None:
    FLAWS[flaw].spoil(widget.root)
    first = load(widget.root, tmp_path, Problems("skip"))
    again = load(widget.root, tmp_path, Problems("skip"))
    assert again.remarks == first.remarks
    assert again.folder == first.folder
    with pytest.raises(UserError, match=FLAWS[flaw].said[0]):
        load(widget.root, tmp_path)


def test_many_skipped_files_are_counted_and_some_named(tmp_path: Path, widget: Miniature) -> None:
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_where_everything_is_broken_nothing_can_be_skipped(
    tmp_path: Path, widget: Miniature, split: str
) -> None:
    for path in (widget.root / split).rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match=rf"no normal image is left in {split}\. Skipped were(.|\n)*000\.png"):
        load(widget.root, tmp_path, Problems("skip"))


def test_where_all_anomalies_are_broken_nothing_can_be_measured(tmp_path: Path, widget: Miniature) -> None:
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
    "no anomalies": (without("test/dent", "test/scratch"), "test holds no anomalous images"),
}


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("flaw", HOPELESS)
def test_a_hopeless_data_set_says_what_it_lacks(
    tmp_path: Path, widget: Miniature, flaw: str, on_error: str
) -> None:
    spoil, message = HOPELESS[flaw]
    spoil(widget.root)
    with pytest.raises(UserError, match=message):
        load(widget.root, tmp_path, Problems(on_error))


def test_a_single_image_is_no_data_set(tmp_path: Path) -> None:
    root = tmp_path / "widget"
    for name, message in (
        ("train/good/0.png", r"test/good does not exist"),
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
    written = Miniature(tmp_path / "data")
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


def test_linked_images_and_folders_are_read(tmp_path: Path, widget: Miniature) -> None:
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


def test_names_that_are_no_text_are_read(tmp_path: Path, widget: Miniature) -> None:
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


def test_normal_images_of_one_name_are_both_read(tmp_path: Path, widget: Miniature) -> None:
    widget.add("train", "train/good/000.bmp")
    widget.add("test", "test/good/000.bmp")
    widget.check(load(widget.root, tmp_path))


def test_anomalies_of_one_name_are_both_read_without_masks(tmp_path: Path, widget: Miniature) -> None:
    widget.add("test", "test/dent/000.bmp", 1)
    shutil.rmtree(widget.root / "ground_truth")
    widget.masked = False
    widget.check(load(widget.root, tmp_path))


# --- odd images that are read all the same ---


def read_image(tmp_path: Path, write: Callable[[Path], object], ending: str, channels: int = 3) -> Pixels:
    """What a data set holds of an image, ``(C, H, W)``."""
    widget = make_mvtec(tmp_path / "odd", defects=["dent"])
    shutil.rmtree(widget.root / "ground_truth")
    write(widget.root / f"test/dent/odd{ending}")
    dataset = load(widget.root, tmp_path, channels=channels)
    row = dataset.test.names.index(f"test/dent/odd{ending}")
    return np.asarray(dataset.test.images[row])


GREY, COLOUR = noise(SIDE, SIDE), noise(SIDE, SIDE, 3)
ALPHA = noise(SIDE, SIDE, 1)


def saving(pixels: NDArray[Any], mode: str | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def in_palette(transparent: bool = False) -> Callable[[Path], None]:
    """Eight colours by number, the first of which may be transparent."""

    def write(path: Path) -> None:
        image = Image.fromarray(GREY % 8, "L")
        image.putpalette(list(PALETTE.flatten()))
        options: dict[str, Any] = {"transparency": 0} if transparent else {}
        image.save(path, **options)

    return write


PREVIEW = Image.new("RGB", (8, 8))
PALETTE = noise(8, 3)
PAINTED = PALETTE[GREY % 8]
BEHIND = np.where((GREY % 8 > 0)[:, :, None], PAINTED, 0)
SEEN = np.concatenate([COLOUR, ALPHA], 2)
DIMMED = COLOUR * (ALPHA / 255)

ODD_IMAGES: dict[str, tuple[str, Callable[[Path], None], NDArray[Any], float]] = {
    "16 bits": (".png", saving(GREY.astype(np.uint16) * 257), GREY, 0),
    "16 bits, not even": (".png", saving(GREY.astype(np.uint16) * 257 // 2 + 100), GREY / 2, 1),
    "16 bits, tif": (".tif", saving(GREY.astype("<u2") * 257), GREY, 0),
    "16 bits, big-endian": (".tif", saving((GREY.astype("<u2") * 257).astype(">u2")), GREY, 0),
    "32 bits": (".tif", saving(GREY.astype("<i4") * 257), GREY, 0),
    "one bit": (".png", saving(np.where(GREY > 127, np.uint8(255), np.uint8(0)), "1"), (GREY > 127) * 255, 0),
    "palette": (".png", in_palette(), PAINTED, 0),
    "palette, bmp": (".bmp", in_palette(), PAINTED, 0),
    "palette, transparent": (".png", in_palette(transparent=True), BEHIND, 0),
    "cmyk": (".tif", saving(COLOUR, "CMYK"), COLOUR, 0),
    "cmyk, jpg": (".jpg", saving(COLOUR, "CMYK", quality=100, subsampling=0), COLOUR, 12),
    "opaque": (".png", saving(np.concatenate([COLOUR, np.full_like(ALPHA, 255)], 2)), COLOUR, 0),
    "clear": (".png", saving(np.concatenate([COLOUR, np.zeros_like(ALPHA)], 2)), np.zeros_like(COLOUR), 0),
    "half transparent": (".png", saving(SEEN), DIMMED, 1),
    "half transparent, webp": (".webp", saving(SEEN, lossless=True, exact=True), DIMMED, 1),
    "half transparent, tif": (".tif", saving(SEEN), DIMMED, 1),
    "jpg": (".jpg", saving(COLOUR, quality=100, subsampling=0), COLOUR, 8),
    "lossless webp": (".webp", saving(COLOUR, lossless=True), COLOUR, 0),
    "wrong ending": (".jpg", saving(COLOUR, format="PNG"), COLOUR, 0),
    "phone": (
        ".jpg",
        saving(COLOUR, format="MPO", save_all=True, append_images=[PREVIEW], quality=100, subsampling=0),
        COLOUR,
        8,
    ),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_are_read_rightly(tmp_path: Path, name: str) -> None:
    ending, write, expected, tolerance = ODD_IMAGES[name]
    planes = expected.transpose(2, 0, 1) if expected.ndim == 3 else np.stack([expected] * 3)
    found = read_image(tmp_path, write, ending)
    assert np.abs(found - planes.astype(float)).max() <= tolerance


def test_phone_photos_hold_several_images_indeed(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    ODD_IMAGES["phone"][1](path)
    with Image.open(path) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("MPO", 2)


@pytest.mark.parametrize("level", [0, 60, 255])
def test_grey_with_transparency_stays_grey(tmp_path: Path, level: int) -> None:
    pixels = np.stack([GREY, np.full_like(GREY, level)], 2)
    found = read_image(tmp_path, saving(pixels), ".png", channels=1)
    assert np.abs(found[0] - GREY * (level / 255)).max() <= 1


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].T,
    8: lambda stored: np.rot90(stored),
}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize(
    ("ending", "options"),
    [(".png", {}), (".webp", {"lossless": True}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})],
)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turned_images_are_read_upright(
    tmp_path: Path, orientation: int, ending: str, options: dict[str, Any]
) -> None:
    path = tmp_path / f"turned{ending}"
    stored = noise(12, 20)
    Image.fromarray(stored).save(path, exif=turned(orientation), **options)
    expected = UPRIGHT[orientation](stored)
    image, native = open_image(path, SIDE)
    assert native == image.size == expected.shape[::-1]
    assert np.array_equal(np.asarray(image.convert("L")), expected)
    mask = open_mask(path, path, native)
    assert np.array_equal(np.asarray(mask) > 0, expected > expected.max() // 2)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("scale", [1, 20])
def test_turned_photos_are_read_upright_also_when_decoded_smaller(
    tmp_path: Path, orientation: int, scale: int
) -> None:
    path = tmp_path / "turned.jpg"
    quarters = np.array([[0, 80, 160], [240, 200, 120]], np.uint8).repeat(8 * scale, 0).repeat(8 * scale, 1)
    Image.fromarray(quarters).save(path, exif=turned(orientation), quality=95)
    image, native = open_image(path, 8)
    expected = UPRIGHT[orientation](quarters)
    assert native == expected.shape[::-1]
    assert (image.size == native) is (scale == 1)
    rows, columns = (2, 3) if orientation < 5 else (3, 2)
    height, width = image.size[1] // rows, image.size[0] // columns
    found = np.asarray(image)[height // 2 :: height, width // 2 :: width].astype(int)
    wanted = expected[4 * scale :: 8 * scale, 4 * scale :: 8 * scale].astype(int)
    assert np.abs(found - wanted).max() <= 4


@pytest.mark.parametrize("ending", [".jpg", ".tif", ".png"])
def test_a_mask_belongs_to_the_upright_photo(tmp_path: Path, widget: Miniature, ending: str) -> None:
    (widget.root / ANOMALY).unlink()
    photo = (widget.root / ANOMALY).with_suffix(ending)
    Image.fromarray(noise(200, 400)).save(photo, exif=turned(6))
    mask = np.zeros((400, 200), np.uint8)
    mask[:200] = 255
    save(widget.root / MASK, mask)
    dataset = load(widget.root, tmp_path)
    assert dataset.native == ((16, 16), (200, 400))
    assert dataset.test.masks is not None
    row = dataset.test.names.index(ANOMALY.replace(".png", ending))
    assert dataset.test.masks[row].tolist() == [[True] * 16] * 8 + [[False] * 16] * 8
    save(widget.root / MASK, mask.T)
    with pytest.raises(UserError, match=r"the mask is 400×200 pixels, but its image .* is 200×400"):
        load(widget.root, tmp_path)


# --- odd masks ---

LEFT = np.zeros((SIDE, SIDE), np.bool_)
LEFT[:, : SIDE // 2] = True
STRIPES = (np.arange(SIDE)[:, None] // 4 + np.zeros(SIDE, int)).astype(np.uint8)  # 0 to 3, from top to bottom


def read_mask(tmp_path: Path, write: Callable[[Path], object], ending: str) -> NDArray[np.bool_]:
    """What a data set holds of a mask."""
    widget = make_mvtec(tmp_path / "odd", defects=["dent"])
    (widget.root / MASK).unlink()
    write((widget.root / MASK).with_suffix(ending))
    dataset = load(widget.root, tmp_path)
    assert dataset.test.masks is not None
    return np.asarray(dataset.test.masks[dataset.test.names.index(ANOMALY)])


def levels(values: Sequence[int], dtype: Any = np.uint8) -> NDArray[Any]:
    """Four stripes of these values, from top to bottom."""
    return np.array(values, dtype)[STRIPES]


def coloured(*colours: tuple[int, int, int]) -> Callable[[Path], None]:
    """Four stripes in a palette's colours."""

    def write(path: Path) -> None:
        image = Image.fromarray(STRIPES, "L")
        image.putpalette([value for colour in colours for value in colour])
        image.save(path)

    return write


ON = np.uint8(255)
ODD_MASKS: dict[str, tuple[str, Callable[[Path], None], NDArray[np.bool_]]] = {
    "0 and 255": (".png", saving(LEFT * ON), LEFT),
    "0 and 1": (".png", saving(LEFT * np.uint8(1)), LEFT),
    "0 and 128": (".png", saving(LEFT * np.uint8(128)), LEFT),
    "one bit": (".png", saving(LEFT * ON, "1"), LEFT),
    "classes": (".png", saving(levels([0, 1, 2, 30])), STRIPES > 0),
    "16 bits, 0 and 1": (".png", saving(LEFT.astype(np.uint16)), LEFT),
    "16 bits, classes": (".png", saving(levels([0, 1, 2, 30], np.uint16)), STRIPES > 0),
    "16 bits, 0 and 255": (".png", saving(LEFT.astype(np.uint16) * 255), LEFT),
    "16 bits, 0 and 65535": (".png", saving(LEFT.astype(np.uint16) * 65535), LEFT),
    "32 bits, classes": (".tif", saving(levels([0, 1, 2, 30], np.int32)), STRIPES > 0),
    "16 bits, edges": (".tif", saving(levels([0, 20000, 40000, 65535], np.uint16)), STRIPES > 1),
    "antialiased": (".png", saving(levels([0, 100, 140, 255])), STRIPES > 1),
    "antialiased, dim": (".png", saving(levels([0, 60, 120, 200])), STRIPES > 1),
    "jpg": (".jpg", saving(LEFT * ON, quality=50), LEFT),
    "jpg in RGB": (".jpg", saving(LEFT * ON, "RGB", quality=50), LEFT),
    "jpg in red": (".jpg", saving(LEFT[:, :, None] * np.array([ON, 0, 0], np.uint8), subsampling=0), LEFT),
    "RGB": (".png", saving(LEFT * ON, "RGB"), LEFT),
    "RGBA": (".png", saving(LEFT * ON, "RGBA"), LEFT),
    "transparent": (".png", saving(np.stack([np.full_like(GREY, 255)] * 3 + [LEFT * ON], 2)), LEFT),
    "colours": (".png", coloured((0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 64)), STRIPES > 0),
    "red on black": (".bmp", coloured((0, 0, 0), (0, 0, 0), (255, 0, 0), (0, 0, 0)), STRIPES == 2),
    "numbers in a grey palette": (".png", coloured((0,) * 3, (1,) * 3, (2,) * 3, (3,) * 3), STRIPES > 0),
    "nothing": (".png", saving(LEFT * np.uint8(0)), LEFT & False),
    "everything": (".png", saving(np.full_like(GREY, 255)), LEFT | True),
}


@pytest.mark.parametrize("name", ODD_MASKS)
def test_odd_masks_are_read_rightly(tmp_path: Path, name: str) -> None:
    ending, write, expected = ODD_MASKS[name]
    assert np.array_equal(read_mask(tmp_path, write, ending), expected)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((SIDE, SIDE), np.float32), "holds floating-point pixels"),
        (np.full((SIDE, SIDE), 70000, np.int32), "holds values from 70000"),
    ],
)
def test_masks_of_unknown_range_are_refused(tmp_path: Path, pixels: NDArray[Any], said: str) -> None:
    with pytest.raises(UserError, match=f"001_mask.tif {said}"):
        read_mask(tmp_path, saving(pixels), ".tif")


# --- single files ---


def flat(path: Path, channels: int = 3) -> list[int]:
    """The one colour of an even image file."""
    image, _ = open_image(path, 8)
    pixels = shrink_image(image, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert (pixels == pixels[:, :1, :1]).all()
    return [int(value) for value in pixels[:, 0, 0]]


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((12, 12), 100 * 257).astype(kind)).save(path)
    assert flat(path) == [100, 100, 100]
    assert flat(path, 1) == [100]


def test_the_brightest_of_16_bits_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((12, 12), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert flat(tmp_path / "deep.png", 1) == [255]


def test_palette_cmyk_and_transparency(tmp_path: Path) -> None:
    red = Image.new("RGB", (12, 12), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.tif")
    Image.new("1", (12, 12), 1).save(tmp_path / "bits.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (12, 12), (80, 255)).save(tmp_path / "grey.png")
    assert flat(tmp_path / "palette.png") == [255, 0, 0]
    assert flat(tmp_path / "print.tif") == [255, 0, 0]
    assert flat(tmp_path / "opaque.png") == [255, 0, 0]
    assert flat(tmp_path / "clear.png") == [0, 0, 0]
    assert flat(tmp_path / "grey.png", 1) == [80]
    assert flat(tmp_path / "bits.png", 1) == [255]


def test_a_turned_photo_is_read_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("L", (40, 20), 0)
    image.paste(255, (0, 0, 20, 20))  # left half, which is the top after a quarter turn
    image.save(path, exif=turned(6))
    upright, native = open_image(path, 16)
    pixels = shrink_image(upright, 16, 1)
    assert native == (20, 40)
    assert pixels[0, :6].min() > 200
    assert pixels[0, 10:].max() < 50


def test_a_large_photo_is_decoded_smaller_but_not_too_small(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    rising = np.tile(np.linspace(0, 255, 800).astype(np.uint8), (400, 1))
    Image.fromarray(rising).save(path, quality=95)
    image, native = open_image(path, 16)
    assert native == (800, 400)
    assert image.size == (100, 50)
    expected = shrink_image(Image.fromarray(rising), 16, 1)
    assert np.abs(shrink_image(image, 16, 1).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("bright", [1, 255])
def test_masks_of_0_and_1_count_too(tmp_path: Path, bright: int) -> None:
    mask = np.zeros((12, 20), np.uint8)
    mask[:, :10] = bright
    path = save(tmp_path / "mask.png", mask)
    assert shrink_mask(open_mask(path, path, (20, 12)), 8).tolist() == [[True] * 4 + [False] * 4] * 8


def test_empty_masks_stay_empty_and_tiny_defects_stay(tmp_path: Path) -> None:
    pixels = np.zeros((128, 128), np.uint8)
    path = save(tmp_path / "mask.png", pixels)
    assert not shrink_mask(open_mask(path, path, (128, 128)), 8).any()
    pixels[17, 33] = 255  # between the points of an 8×8 grid
    save(path, pixels)
    assert np.argwhere(shrink_mask(open_mask(path, path, (128, 128)), 8)).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("name", "said"), [("gone.png", "is not there"), ("folder.png", r"can't be opened \(Is a directory\)")]
)
def test_what_is_no_file_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=f"{name} {said}"):
        open_image(tmp_path / name, SIDE)
