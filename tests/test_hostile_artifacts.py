"""Artifacts that somebody made to do harm, or that make no sense: each is refused by one message."""

from __future__ import annotations

import json
import os
import stat
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_world
from denoise_worlds import make_denoise_world
from torch import Tensor

from detectors.transformer import TransformerDetector
from latent_common.artifacts import load_artifact, save_artifact, write_atomically
from latent_common.errors import UserError
from latent_env.denoise.world import load_denoise_world, save_critic
from latent_env.worlds.artifacts import load_detector, save_autoencoder
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.reward_ensemble import save_reward_ensemble
from latent_env.worlds.store import MANIFEST, load_world, save_world, seal_world

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A world with a reference set and a reward ensemble."""
    world = make_world("spatial")
    folder, labels = tmp_path / "world", torch.tensor([0, 1] * 3)
    marks = torch.ones(6, 1, *world.autoencoder.latent_shape[1:], dtype=torch.bool)
    reference = ReferenceSet.of(world.images[:6], labels, marks)
    save_world(folder, world.with_reference_set(reference))
    save_reward_ensemble(folder, [TransformerDetector(1, 32, width=8, depth=1, heads=2)], None)
    seal_world(folder)
    load_world(str(folder), CPU)
    return folder


def seal(folder: Path) -> None:
    """Write the manifest that fits the artifacts, as whoever made them could; critics have none."""
    if (folder / "detector.json").is_file():
        seal_world(folder)


def describe(folder: Path, name: str, **facts: Any) -> None:
    """Change the facts beside an artifact's tensors."""
    path = folder / f"{name}.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "facts": {**held["facts"], **facts}}))
    seal(folder)
    if (folder / MANIFEST).is_file():
        seal_world(folder)


def replace(folder: Path, name: str, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Store other tensors, with the checksum that belongs to them."""
    tensors, facts = load_artifact(folder, name, name)
    save_artifact(folder, name, name, change(tensors), facts)
    seal(folder)
    seal_world(folder)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("detector", {"depth": 10**9}),
        ("detector", {"width": 2 * 10**6}),
        ("detector", {"size": 10**6}),
        ("detector", {"size": [1]}),
        ("detector", {"architecture": []}),
        ("detector", {"architecture": {"transformer": 1}}),
        ("autoencoder", {"width": 10**7}),
        ("autoencoder", {"latent_size": 10**9}),
        ("autoencoder", {"latent": "flat", "latent_size": 10**9}),
        ("autoencoder", {"size": 10**9}),
        (
            "reward_ensemble",
            {"members": [{"architecture": "transformer", "channels": 1, "size": 32, "depth": 10**9}]},
        ),
        ("reward_ensemble", {"members": [{"architecture": "knn", "latent_shape": [10**6, 32, 32]}]}),
        ("reward_ensemble", {"members": [1]}),
        ("reward_ensemble", {"members": 10**9}),
        ("reward_ensemble", {"members": [{"architecture": []}]}),
    ],
    ids=str,
)
def test_sizes_that_the_file_does_not_explain(folder: Path, name: str, facts: dict[str, Any]) -> None:
    describe(folder, name, **facts)
    tracemalloc.start()
    with pytest.raises(UserError, match=name):
        load_world(str(folder), CPU)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**25


def test_a_critic_of_a_billion_blocks(tmp_path: Path) -> None:
    world = make_denoise_world()
    save_autoencoder(tmp_path, world.space)  # type: ignore[arg-type]
    save_critic(tmp_path, world, "latent")
    for facts in (
        {"depth": 10**9},
        {"width": 10**8},
        {"classes": 10**12},
        {"shape": [10**9, 10**9]},
        {"shape": "x"},
    ):
        describe(tmp_path, "critic_latent", **facts)
        with pytest.raises(UserError, match="critic"):
            load_denoise_world(str(tmp_path), "latent", CPU)


def test_a_critic_whose_results_overflow(tmp_path: Path) -> None:
    world = make_denoise_world()
    save_autoencoder(tmp_path, world.space)  # type: ignore[arg-type]
    save_critic(tmp_path, world, "latent")
    load_denoise_world(str(tmp_path), "latent", CPU)
    tensors, facts = load_artifact(tmp_path, "critic_latent", "critic")
    huge = {**tensors, "enter.weight": tensors["enter.weight"] * 0 + 3e38}
    save_artifact(tmp_path, "critic_latent", "critic", huge, facts)
    with pytest.raises(UserError, match="so large that results overflow"):
        load_denoise_world(str(tmp_path), "latent", CPU)


def changed(
    key: str, value: Tensor | Callable[[Tensor], Tensor]
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda held: {**held, key: value(held[key]) if callable(value) else value}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "detector",
            changed("out.weight", lambda old: old * torch.nan),
            "detector.safetensors .*out.weight .*NaN",
        ),
        (
            "autoencoder",
            changed("scale", lambda old: old * torch.inf),
            "autoencoder.safetensors .*scale .*NaN",
        ),
        ("autoencoder", changed("scale", lambda old: old * 0), "overflow"),
        ("detector", changed("out.weight", lambda old: old * 0 + 3e38), "overflow"),
        ("images", changed("images", lambda old: old[:0]), "must be one or more uint8"),
        ("images", changed("images", lambda old: old.float()), "must be one or more uint8"),
        ("reference_set", changed("labels", torch.tensor([0, 1, 99] * 2)), "holds no reference set"),
        ("reference_set", changed("labels", torch.zeros(6, dtype=torch.int64)), "holds no reference set"),
        ("reference_set", changed("labels", torch.tensor([0.0, 1.0] * 3)), "holds no reference set"),
        ("reference_set", changed("labels", torch.tensor(1)), "holds no reference set"),
        (
            "reference_set",
            changed("inputs", lambda old: old[..., :16, :16]),
            "reference_set.* of another world",
        ),
    ],
)
def test_tensors_that_make_no_sense(
    folder: Path, name: str, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], message: str
) -> None:
    replace(folder, name, change)
    with pytest.raises(UserError, match=message):
        load_world(str(folder), CPU)


def test_a_reward_ensemble_of_another_world(folder: Path) -> None:
    save_reward_ensemble(folder, [TransformerDetector(3, 64, width=8, depth=1, heads=2)], None)
    seal_world(folder)
    seal_world(folder)
    with pytest.raises(UserError, match=r"reward_ensemble.json .*\(3, 64, 64\), the world's is another"):
        load_world(str(folder), CPU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "detector.json is damaged"),
        (b'{"a":' * 200_000, "detector.json is damaged"),
        (b"\xff\xfe\x00", "detector.json is damaged"),
        (b"9" * 10_000, "detector.json is damaged"),
        (b" " * (2**24 + 1), "has 16,777,217 bytes, more than the"),
        (b"null", "describes 'NoneType'"),
    ],
    ids=["lists", "dictionaries", "no text", "a long number", "a large file", "null"],
)
def test_descriptions_that_make_no_sense(folder: Path, content: bytes, message: str) -> None:
    (folder / "detector.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_detector(folder)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_is_no_regular_file_is_not_read(folder: Path, suffix: str) -> None:
    path = folder / f"detector{suffix}"
    for make in (lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path)):
        path.unlink()
        make()
        with pytest.raises(UserError, match=f"detector{suffix} is no regular file"):
            load_detector(folder)


@pytest.mark.parametrize("name", ["reference_set", "reward_ensemble"])
def test_a_part_that_the_list_leaves_out_is_told(folder: Path, name: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["artifacts"][name]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"world.json doesn't list {name}\.json: make the folder again"):
        load_world(str(folder), CPU)


def test_a_file_far_larger_than_memory_is_refused(folder: Path) -> None:
    """By its length, before its checksum is computed."""
    path = folder / "detector.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**30)
    began = time.process_time()
    tracemalloc.start()
    with pytest.raises(UserError, match=r"detector.safetensors is damaged: it has 1073741824 bytes"):
        load_detector(folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**25
    assert time.process_time() - began < 0.4


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_written_files_have_the_permissions_that_the_user_wants(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask
