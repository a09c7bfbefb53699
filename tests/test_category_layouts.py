"""MVTec AD, PKU GoodsAD and VisA are read back exactly in every layout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from dataset_sources import goodsad, mvtec, visa
from PIL import Image
from small_datasets import (
    VISA_HEAD,
    MvtecLayout,
    contents,
    make_mvtec,
    make_visa,
    read,
)

from latent_common.errors import UserError
from latent_env.data import (
    GOODSAD,
    MVTEC,
)

# --- MVTec AD and GoodsAD ---


@pytest.mark.parametrize(
    "place",
    [
        *(
            "mvtec/bottle",
            "MVTec/Bottle",
            "mvtec_ad/bottle",
            "MVTec AD/bottle",
            "mvtec_anomaly_detection/bottle",
        ),
        *("images/mvtec/bottle", "mvtec/mvtec_anomaly_detection/bottle", "bottle"),
    ],
)
def test_mvtec_is_found(tmp_path: Path, data: Path, place: str) -> None:
    written = make_mvtec(data / place, channels=3)
    dataset = read(mvtec(data), tmp_path)
    written.check(dataset)
    assert dataset.summary() == (
        "mvtec_bottle: train 5 · valid 1 normal · test 2 + 4 · 16×16 RGB from 16×16 · pixel masks"
    )


MVTEC_LAYOUTS = {
    "official": MvtecLayout(),
    "without masks": MvtecLayout(truth=None),
    "masks named as their images": MvtecLayout(mask_ending=".png"),
    "masks of another ending": MvtecLayout(mask_ending=".BMP"),
    "capitals": MvtecLayout("Train", "TEST", "Good", "Ground_Truth", ".PNG", "_Mask.PNG"),
    "bmp": MvtecLayout(ending=".bmp"),
    "tiff": MvtecLayout(ending=".tiff"),
}


@pytest.mark.parametrize("layout", MVTEC_LAYOUTS)
def test_mvtec_is_read_back_in_each_layout(tmp_path: Path, data: Path, layout: str) -> None:
    written = make_mvtec(data / "mvtec" / "grid", MVTEC_LAYOUTS[layout])
    dataset = read(mvtec(data, "grid"), tmp_path)
    written.check(dataset)
    assert (dataset.test.masks is not None) is written.masked


def test_a_neighbouring_category_is_left_alone(tmp_path: Path, data: Path) -> None:
    make_mvtec(data / "mvtec" / "cable", channels=3)
    make_mvtec(data / "goodsad" / "food_box", channels=3)
    written = make_mvtec(data / "mvtec" / "tile", defects=["crack"])
    written.check(read(mvtec(data, "tile"), tmp_path))


@pytest.mark.parametrize("category", MVTEC.categories)
def test_every_mvtec_category_is_known(data: Path, category: str) -> None:
    make_mvtec(data / "mvtec" / category)
    assert mvtec(data, category).name == f"mvtec_{category}"


@pytest.mark.parametrize("category", GOODSAD.categories)
def test_goodsad_is_read_back(tmp_path: Path, data: Path, category: str) -> None:
    root = data / "PKU-GoodsAD" / category
    written = make_mvtec(
        root, MvtecLayout(mask_ending=".png"), channels=3, defects=["opened", "surface_damage"]
    )
    for path in [*root.glob("train/*/*"), *root.glob("test/*/*")]:
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=100, subsampling=0)
        path.unlink()
    dataset = read(goodsad(data, category), tmp_path)
    assert dataset.name == f"goodsad_{category}"
    for split, found in (
        ("train", contents(dataset.train, dataset.valid)),
        ("test", contents(dataset.test)),
    ):
        expected = {name.replace(".png", ".jpg"): item for name, item in written.contents(split).items()}
        assert found.keys() == expected.keys()
        for name, item in found.items():
            assert (item.label, item.mask) == (expected[name].label, expected[name].mask)
            pixels, wanted = (np.frombuffer(i.pixels, np.uint8).astype(int) for i in (item, expected[name]))
            assert abs(pixels - wanted).max() <= 8


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ("", "dataset.category is missing: mvtec has bottle, cable"),
        ("botle", "category=botle is unknown: mvtec"),
    ],
)
def test_an_unknown_category_names_the_known_ones(data: Path, category: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        mvtec(data, category)


# --- VisA ---


@pytest.mark.parametrize("place", ["visa", "VisA", "VisA_20220922", "downloads/VisA", "."])
def test_visa_is_read_by_its_own_table(tmp_path: Path, data: Path, place: str) -> None:
    made = make_visa(data / place)
    for category, written in made.items():
        dataset = read(visa(data, category), tmp_path)
        written.check(dataset)
        assert dataset.name == f"visa_{category}"


@pytest.mark.parametrize(
    "place", ["VisA/candle", "visa_pytorch/candle", "VisA_pytorch/1cls/candle", "candle"]
)
def test_visa_rearranged_as_mvtec_is_read(tmp_path: Path, data: Path, place: str) -> None:
    written = make_mvtec(data / place, MvtecLayout(mask_ending=".png"), channels=3, defects=["bad"])
    dataset = read(visa(data), tmp_path)
    written.check(dataset)
    assert dataset.name == "visa_candle"


def test_visa_without_masks_is_read(tmp_path: Path, data: Path) -> None:
    written = make_visa(data / "visa")["pcb1"]
    table = data / "visa/split_csv/1cls.csv"
    table.write_text(re.sub(r",[^,\n]*Masks[^,\n]*$", ",", table.read_text(), flags=re.MULTILINE))
    written.masked = False
    written.check(read(visa(data, "pcb1"), tmp_path))


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path, data: Path) -> None:
    written = make_visa(data / "visa")["candle"]
    table = data / "visa/split_csv/1cls.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b",normal,", b", Normal ,") + b"\r\n")
    written.check(read(visa(data), tmp_path))


BACKSLASHES = r"candle\..\..\\"
ROW = "candle,train,normal,candle/Data/Images/Normal/0000.png,"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            f"{VISA_HEAD.replace(',mask', '')}\n{ROW}",
            "1cls.csv lacks the columns mask; expected object, split",
        ),
        (f"{VISA_HEAD}\n", "1cls.csv has no rows"),
        ("", "1cls.csv has no rows"),
        (
            f"{VISA_HEAD}\n{ROW}\n{ROW.replace('normal', 'odd')}",
            "1cls.csv, line 3: split=train label=odd is unknown",
        ),
        (f"{VISA_HEAD}\n{ROW.replace('train', 'val')}", "line 2: split=val label=normal is unknown"),
        (f"{VISA_HEAD}\n{ROW}\ncandle,train", "line 3: split=train label= is unknown"),
        (f"{VISA_HEAD}\n{ROW}\n{ROW.replace('normal', 'anomaly')}", "candle has anomalies in train"),
        (f"{VISA_HEAD}\n{ROW}", "names no normal images of candle for test"),
        (f"{VISA_HEAD}\n{ROW.replace('candle', 'pcb1')}", "names no normal images of candle for train"),
        (b"\xff\xfe\x00", "1cls.csv can't be read as a table"),
        (
            f"{VISA_HEAD}\n{ROW.replace('candle/', '../../')}",
            "line 2: image=../../Data/",
        ),
        (
            f"{VISA_HEAD}\n{ROW.replace('candle/', '/etc/')}",
            "line 2: image=/etc/Data/",
        ),
        (f"{VISA_HEAD}\n{ROW.replace('candle/', BACKSLASHES)}", "leads out of"),
        (f"{VISA_HEAD}\n{ROW}candle/../../secret.png", "line 2: mask=candle/../../secret.png leads out of"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(data: Path, table: str | bytes, message: str) -> None:
    make_visa(data / "visa")
    path = data / "visa/split_csv/1cls.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UserError, match=re.escape(message)):
        visa(data)


@pytest.mark.parametrize("missing", ["Images/Normal/0004.png", "Masks/Anomaly/001.png"])
def test_a_file_of_the_table_that_is_missing_is_named(tmp_path: Path, data: Path, missing: str) -> None:
    make_visa(data / "visa")
    (data / "visa/candle/Data" / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is not there"):
        read(visa(data), tmp_path)
