"""VisA (Zou et al.) in its own layout with its table of splits, or rearranged like MVTec AD."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from latent_common.errors import UserError
from latent_common.files import path_below, read_bytes
from latent_env.data.finding import find_file, find_folder, find_place, not_found_error
from latent_env.data.layouts.mvtec import check_category, find_category, mvtec_source
from latent_env.data.layouts.pairing import only_masked
from latent_env.data.samples import FileSample, Problems, Source, files_of
from latent_env.data.splitting import Splitting

CATEGORIES = (
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
    *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
)
ALIASES = ("visa", "visa_20220922", "visa_pytorch", "1cls")
ORIGIN = (
    "VisA comes from its authors: https://github.com/amazon-science/spot-diff links the download "
    "(licence CC BY 4.0)."
)
COLUMNS = ("object", "split", "label", "image", "mask")

MOST_TABLE = 2**26
"""The table of splits has at most so many bytes; VisA's own has a hundredth."""


def visa_source(
    data_root: Path,
    category: str,
    splitting: Splitting,
    problems: Problems,
    channels: int | None = None,
) -> Source:
    """One of VisA's categories below ``data_root``, with the official one-class split."""
    check_category("visa", category, CATEGORIES)
    name = f"visa_{category}"
    official = find_place(
        data_root, ALIASES, lambda place: bool(_table(place) and find_folder(place, category))
    )
    if official is not None:
        return _official_source(official, name, category, splitting, problems, channels)
    folder = find_category(data_root, ALIASES, category)
    if folder is None:
        tree = (
            f"  split_csv/1cls.csv                             the official split\n"
            f"  {category}/Data/Images/{{Normal,Anomaly}}/*.JPG\n"
            f"  {category}/Data/Masks/Anomaly/*.png\n"
            f"or rearranged as MVTec AD: {category}/train/good, {category}/test/{{good,bad}}, "
            f"{category}/ground_truth/bad"
        )
        raise not_found_error(name, data_root, ALIASES, tree, ORIGIN)
    return mvtec_source(folder, name, splitting, problems, channels)


def _table(root: Path) -> Path | None:
    folder = find_folder(root, "split_csv")
    return find_file(folder, "1cls.csv") if folder else None


def _official_source(
    root: Path,
    name: str,
    category: str,
    splitting: Splitting,
    problems: Problems,
    channels: int | None,
) -> Source:
    table = _table(root)
    assert table is not None
    found: dict[tuple[str, int], list[FileSample]] = {
        (split, label): [] for split in ("train", "test") for label in (0, 1)
    }
    for number, row in enumerate(_rows(table), start=2):
        if row["object"].lower() != category:
            continue
        key = row["split"].lower(), {"normal": 0, "anomaly": 1}.get(row["label"].lower(), -1)
        if key not in found:
            raise UserError(
                f"{table}, line {number}: split={row['split']} label={row['label']} is unknown; expected "
                "train or test, normal or anomaly"
            )
        where = f"{table}, line {number}:"
        image = path_below(root, row["image"], f"{where} image")
        mask = path_below(root, row["mask"], f"{where} mask") if row["mask"] else None
        kind = "Anomaly" if key[1] else "Normal"
        found[key].append(FileSample(image, key[1], row["image"], mask if key[1] else None, kind))
    if found["train", 1]:
        raise UserError(f"{table}: {category} has anomalies in train, but train must be normal only")
    for what in (("train", 0), ("test", 0), ("test", 1)):
        if not found[what]:
            label = "anomaly" if what[1] else "normal"
            raise UserError(f"{table} names no {label} images of {category} for {what[0]}")
    test_bad = only_masked(found["test", 1], "in the column mask", problems)
    splits, remarks = splitting.divide(found["train", 0], found["test", 0], test_bad)
    every = [sample for samples in found.values() for sample in samples]
    settings = {"root": str(root.resolve()), "table": table.name, **splitting.settings()}
    return Source(name, splits, [table, *files_of(every)], settings, channels, remarks)


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        text = read_bytes(table, MOST_TABLE).decode("utf-8-sig")
        with io.StringIO(text, newline="") as file:
            rows = [
                {
                    (key or "").strip(): (value or "").strip()
                    for key, value in row.items()
                    if isinstance(value, str | None)
                }
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} can't be read as a table ({error})") from error
    if not rows:
        raise UserError(f"{table} has no rows; expected one an image, with {', '.join(COLUMNS)}")
    lacking = [column for column in COLUMNS if column not in rows[0]]
    if lacking:
        raise UserError(f"{table} lacks the columns {', '.join(lacking)}; expected {', '.join(COLUMNS)}")
    return rows
