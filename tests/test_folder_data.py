from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectors.errors import UserError
from latent_env.data import Dataset, load_bmad_dataset, load_folder_dataset
from latent_env.data.images import read_image, read_mask

REAL = Path(__file__).parents[2] / "shared" / "data"


def real(*folders: str) -> Path:
    path = REAL.joinpath(*folders)
    if not path.is_dir():
        pytest.skip(f"{'/'.join(folders)} is not below {REAL}")
    return path


def write(path: Path, value: int = 100, size: tuple[int, int] = (20, 12), mode: str = "L") -> Path:
    """An even image of ``size`` (width, height), with a bright corner so that it isn't blank."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size, value)
    image.paste(255, (0, 0, 3, 3))
    image.convert(mode).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (20, 12), bright: int = 255) -> Path:
    """A mask whose left half is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = bright
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "widget"
    for i in range(6):
        write(root / f"train/good/{i:03d}.png", 90 + i)
    for i in range(2):
        write(root / f"test/good/{i:03d}.png")
        for defect in ("scratch", "dent"):
            write(root / f"test/{defect}/{i:03d}.png")
            write_mask(root / f"ground_truth/{defect}/{i:03d}_mask.png")
    return root


@pytest.fixture
def bmad(tmp_path: Path) -> Path:
    return make_bmad(tmp_path / "data" / "Liver").parent


def make_bmad(root: Path, img: str = "img", valid: str = "valid", mask: str = "anomaly_mask") -> Path:
    for i in range(3):
        write(root / "train/good" / img / f"{i}.png")
    for split in (valid, "test"):
        for i in range(2):
            write(root / split / "good" / img / f"{i}.png")
            write(root / split / "Ungood" / img / f"{i}.png")
            write_mask(root / split / "Ungood" / mask / f"{i}.png")
    return root


def load(root: Path, size: int = 16) -> Dataset:
    return load_folder_dataset(root, size, progress=False)


# --- any folder ---


def test_folder_is_read(mvtec: Path) -> None:
    dataset = load(mvtec)
    assert dataset.summary() == "widget: train 5 · valid 1 normal · test 2 + 4 · 16×16 grey · pixel masks"
    assert dataset.test.names[0] == "test/good/000.png"
    assert dataset.test.names[2] == "test/dent/000.png"
    masks = dataset.test.masks
    assert masks is not None
    assert not masks[:2].any()
    assert masks[2:, :, :8].all()
    assert not masks[2:, :, 8:].any()
    assert set(dataset.train.names) | set(dataset.valid.names) == {
        f"train/good/{i:03d}.png" for i in range(6)
    }


def test_valid_part_is_seeded(mvtec: Path) -> None:
    def valid(seed: int, fraction: float = 0.15) -> tuple[str, ...]:
        return load_folder_dataset(mvtec, 8, valid_fraction=fraction, seed=seed, progress=False).valid.names

    assert valid(0) == valid(0)
    assert len({valid(seed) for seed in range(5)}) > 1
    assert len(valid(0, 0.01)) == 1
    assert len(valid(0, 0.99)) == 5  # one is left to learn from


def test_limit_keeps_every_kind(mvtec: Path) -> None:
    dataset = load_folder_dataset(mvtec, 8, limit=2, progress=False)
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [1, 1, 4]
    assert {name.split("/")[1] for name in dataset.test.names} == {"good", "dent", "scratch"}


def test_masks_may_be_named_as_their_images_or_be_absent(mvtec: Path) -> None:
    truth = mvtec / "ground_truth" / "dent"
    for path in list(truth.iterdir()):
        path.rename(truth / path.name.replace("_mask", ""))
    with_masks = load(mvtec).test.masks
    assert with_masks is not None
    assert with_masks[2:].any((1, 2)).all()
    shutil.rmtree(mvtec / "ground_truth")
    assert load(mvtec).test.masks is None


def test_files_that_are_no_images_are_passed_over(mvtec: Path) -> None:
    (mvtec / "train/good/notes.txt").write_text("not an image")
    (mvtec / "train/good/.hidden.png").write_bytes(b"")
    (mvtec / "test/.thumbnails").mkdir()
    write(mvtec / "train/good/LOUD.PNG")
    assert len(load(mvtec).train) + len(load(mvtec).valid) == 7


def test_colour_is_decided_by_the_training_images(mvtec: Path) -> None:
    for path in (mvtec / "train/good").iterdir():
        write(path, mode="RGB")
    assert load(mvtec).channels == 1  # stored as RGB, but grey
    Image.new("RGB", (20, 12), (200, 30, 40)).save(mvtec / "train/good/000.png")
    assert load(mvtec).channels == 3
    assert load_folder_dataset(mvtec, 8, channels=1, progress=False).channels == 1


def test_many_files_show_a_progress_bar(mvtec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(80):
        write(mvtec / f"train/good/more{i}.png")
    load_folder_dataset(mvtec, 8)
    shown = capsys.readouterr().err
    assert "widget train" in shown
    assert "widget test" not in shown
    load_folder_dataset(mvtec, 8, progress=False)
    assert not capsys.readouterr().err


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose head claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def cut_short(root: Path) -> None:
    path = root / "test/dent/001.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:150])


def remove(*parts: str) -> Callable[[Path], object]:
    return lambda root: [shutil.rmtree(root / part) for part in parts]


def remove_images(left: int) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        for path in sorted((root / "train/good").iterdir())[left:]:
            path.unlink()

    return act


def root_is_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


def replace(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (
        lambda root: shutil.rmtree(root),
        r"widget does not exist(.|\n)*train/good(.|\n)*dataset.root=",
    ),
    "root is a file": (root_is_file, "widget is a file"),
    "no train/good": (remove("train/good"), r"train/good does not exist(.|\n)*ground_truth"),
    "no test/good": (remove("test/good"), "test/good does not exist"),
    "no images": (
        remove_images(0),
        "train/good holds no images",
    ),
    "one image": (
        remove_images(1),
        "train/good holds one image only",
    ),
    "no anomalies": (remove("test/dent", "test/scratch"), "test holds no anomalous images"),
    "empty file": (replace("train/good/002.png", b""), r"train/good/002.png is empty \(0 bytes\)"),
    "broken file": (replace("train/good/002.png", b"no image" * 9), "train/good/002.png can't be read"),
    "cut short": (cut_short, "test/dent/001.png can't be read"),
    "bomb": (
        replace("test/good/001.png", png_claiming(60000, 60000)),
        "test/good/001.png claims to be larger",
    ),
    "large": (replace("test/good/001.png", png_claiming(9000, 9000)), "test/good/001.png claims 9000×9000"),
    "mask of other size": (
        lambda root: write_mask(root / "ground_truth/dent/001_mask.png", (10, 6)),
        r"dent/001_mask.png: the mask is 10×6 pixels.*test/dent/001.png is 20×12",
    ),
    "image without mask": (
        lambda root: (root / "ground_truth/dent/001_mask.png").unlink(),
        "test/dent/001.png: this anomalous image has no mask",
    ),
    "kind without masks": (remove("ground_truth/dent"), r"test/dent/000.png: .* no mask .*and 1 more"),
    "mask without image": (
        lambda root: (root / "test/dent/000.png").unlink(),
        "dent/000_mask.png: this mask has no image",
    ),
    "masks without images": (remove("test/dent"), "ground_truth/dent holds masks"),
    "floating point": (
        lambda root: Image.new("F", (20, 12)).save(root / "train/good/000.tif"),
        "000.tif holds floating-point",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_file(mvtec: Path, mistake: str) -> None:
    make, message = MISTAKES[mistake]
    make(mvtec)
    with pytest.raises(UserError, match=message):
        load(mvtec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 20}, "size=20"),
        ({"size": 8, "channels": 2}, "channels=2"),
        ({"size": 8, "limit": 1}, "limit=1"),
        ({"size": 8, "valid_fraction": 0.0}, "valid_fraction=0.0"),
    ],
)
def test_wrong_settings_are_refused(mvtec: Path, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_folder_dataset(mvtec, progress=False, **arguments)  # type: ignore[arg-type]


# --- single files ---


def colours(path: Path, channels: int = 3) -> list[int]:
    """The one colour of an even image file."""
    pixels, _ = read_image(path, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert (pixels == pixels[:, :1, :1]).all()
    return [int(value) for value in pixels[:, 0, 0]]


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((12, 12), 100 * 257).astype(kind)).save(path)
    assert colours(path) == [100, 100, 100]
    assert colours(path, 1) == [100]
    if kind == "<u2":
        Image.fromarray(np.full((12, 12), 65535, np.uint16)).save(tmp_path / "deep.png")
        assert colours(tmp_path / "deep.png", 1) == [255]


def test_palette_cmyk_and_transparency(tmp_path: Path) -> None:
    red = Image.new("RGB", (12, 12), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.tif")
    red.convert("1").save(tmp_path / "bits.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 255)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (12, 12), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (12, 12), (80, 255)).save(tmp_path / "grey.png")
    assert colours(tmp_path / "palette.png") == [255, 0, 0]
    assert colours(tmp_path / "print.tif") == [255, 0, 0]
    assert colours(tmp_path / "opaque.png") == [255, 0, 0]
    assert colours(tmp_path / "clear.png") == [0, 0, 0]
    assert colours(tmp_path / "grey.png", 1) == [80]
    read_image(tmp_path / "bits.png", 8, 1)


def test_a_turned_photo_is_read_upright(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("L", (40, 20), 0)
    image.paste(255, (0, 0, 20, 20))  # left half, which is the top after a quarter turn
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    pixels, native = read_image(path, 16, 1)
    assert native == (20, 40)
    assert pixels[0, :6].min() > 200
    assert pixels[0, 10:].max() < 50


@pytest.mark.parametrize("bright", [1, 255])
def test_masks_of_0_and_1_count_too(tmp_path: Path, bright: int) -> None:
    path = write_mask(tmp_path / "mask.png", bright=bright)
    assert read_mask(path, 8, path, (20, 12)).tolist() == [[True] * 4 + [False] * 4] * 8


def test_empty_masks_stay_empty_and_tiny_defects_stay(tmp_path: Path) -> None:
    pixels = np.zeros((128, 128), np.uint8)
    path = tmp_path / "mask.png"
    Image.fromarray(pixels).save(path)
    assert not read_mask(path, 8, path, (128, 128)).any()
    pixels[17, 33] = 255  # between the points of an 8×8 grid
    Image.fromarray(pixels).save(path)
    assert np.argwhere(read_mask(path, 8, path, (128, 128))).tolist() == [[1, 2]]


# --- BMAD ---


def check_bmad(dataset: Dataset) -> None:
    assert dataset.summary() == (
        "bmad_liver: train 3 · valid 2 normal + 2 anomalous · test 2 + 2 · 16×16 grey · pixel masks"
    )
    assert dataset.test.masks is not None
    assert dataset.test.masks[2:].any((1, 2)).all()


@pytest.mark.parametrize("folder", ["Liver", "liver", "Liver_AD", "bmad/Liver", "Liver/Train/hist_DIY", "."])
def test_bmad_is_found(tmp_path: Path, folder: str) -> None:
    make_bmad(tmp_path / "data" / folder)
    check_bmad(load_bmad_dataset(tmp_path / "data", "bmad_liver", 16, progress=False))


@pytest.mark.parametrize(
    "layout", [{"img": ""}, {"valid": "Val"}, {"mask": "label"}, {"mask": "Anomaly_Mask"}]
)
def test_bmad_layouts(tmp_path: Path, layout: dict[str, str]) -> None:
    make_bmad(tmp_path / "Liver", **layout)
    check_bmad(load_bmad_dataset(tmp_path, "bmad_liver", 16, progress=False))


def test_bmad_without_masks(bmad: Path) -> None:
    for split in ("valid", "test"):
        shutil.rmtree(bmad / "Liver" / split / "Ungood" / "anomaly_mask")
    assert load_bmad_dataset(bmad, "bmad_liver", 16, progress=False).test.masks is None


def test_missing_bmad_says_where_it_looked_and_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_bmad_dataset(tmp_path, "bmad_liver", 16)
    for part in (
        *(str(tmp_path / folder) for folder in ("Liver", "Liver_AD", "bmad/Liver")),
        "train/good/img",
        "DorisBao/BMAD",
        "CC BY-NC-SA 4.0",
        "data_root=/path",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train/good/img", "no images in train/good"),
        ("valid/good", "no images in valid/good"),
        ("test/Ungood", "no images in test/Ungood"),
        ("test/Ungood/img/1.png", "Ungood/anomaly_mask/1.png: this mask has no image"),
        ("test/Ungood/anomaly_mask/1.png", "test/Ungood/img/1.png: this anomalous image has no mask"),
        ("test/Ungood/anomaly_mask", "test/Ungood/img/0.png: this anomalous image has no mask"),
    ],
)
def test_incomplete_bmad_names_what_is_missing(bmad: Path, path: str, message: str) -> None:
    target = bmad / "Liver" / path
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        load_bmad_dataset(bmad, "bmad_liver", 16, progress=False)


# --- real images ---


def test_real_bottles() -> None:
    dataset = load_folder_dataset(real("mvtec", "bottle"), 32, limit=20, progress=False)
    assert dataset.summary() == "bottle: train 17 · valid 3 normal · test 20 + 20 · 32×32 RGB · pixel masks"
    assert dataset.test.masks is not None
    assert dataset.test.masks[dataset.test.labels == 1].any((1, 2)).all()


def test_real_magnetic_tiles() -> None:
    dataset = load_folder_dataset(real("folder", "magnetic_tile"), 32, progress=False)
    assert dataset.summary() == (
        "magnetic_tile: train 578 · valid 102 normal · test 272 + 392 · 32×32 grey · pixel masks"
    )


def test_real_ultrasound() -> None:
    dataset = load_bmad_dataset(real("bmad"), "bmad_busi", 32, progress=False)
    assert dataset.summary() == (
        "bmad_busi: train 80 · valid 18 normal + 40 anomalous · test 35 + 260 · 32×32 grey · pixel masks"
    )
