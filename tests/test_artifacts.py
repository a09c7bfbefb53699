"""Saving, loading, and every way in which a file can be wrong."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from conftest import make_world
from denoise_worlds import make_denoise_world

from agents.rollout import Augmented, load_augmented, save_augmented
from detectors.transformer import TransformerDetector
from latent_common import artifacts
from latent_common.artifacts import (
    FORMAT,
    copy_artifact,
    load_artifact,
    save_artifact,
    settle_artifact,
    write_atomically,
)
from latent_common.errors import UserError
from latent_env.denoise.world import load_denoise_world, save_critic
from latent_env.worlds.artifacts import load_autoencoder, load_detector, save_autoencoder, save_detector
from latent_env.worlds.half_precision import halve
from latent_env.worlds.store import copy_world, find_world, load_world, save_images, save_world, seal_world
from latent_env.worlds.world import World


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(make_world("spatial"), tmp_path / "world")


def save(world: World, folder: Path) -> Path:
    save_world(folder, world)
    return folder


def test_a_world_comes_back_as_it_was(folder: Path) -> None:
    world, again = make_world("spatial"), load_world(str(folder), torch.device("cpu"))
    assert torch.equal(world.images, again.images)
    assert torch.equal(world.latents, again.latents)
    image = world.images[:2].float() / 255
    assert torch.equal(world.detect(image).map, again.detect(image).map)
    gym.make("LatentAug-v0", artifacts=str(folder)).reset(seed=0)


def test_only_safetensors_and_json(folder: Path) -> None:
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    facts = json.loads((folder / "autoencoder.json").read_text())
    assert facts["kind"] == "autoencoder"
    assert facts["facts"]["latent"] == "spatial"
    assert "torch" in facts["versions"]


def test_networks_in_half_precision_compute_nearly_the_same_in_float32(folder: Path) -> None:
    world, size = make_world("spatial"), (folder / "detector.safetensors").stat().st_size
    halve(folder)
    again = load_world(str(folder), torch.device("cpu"))
    assert (folder / "detector.safetensors").stat().st_size < 0.7 * size
    assert all(tensor.dtype == torch.float32 for tensor in again.autoencoder.state_dict().values())
    assert torch.equal(again.autoencoder.normal_distances, world.autoencoder.normal_distances)
    image = world.images[:2].float() / 255
    assert float((again.detect(image).map - world.detect(image).map).abs().mean()) < 0.02
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    halve(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_critic_in_half_precision_still_fits_its_autoencoder(tmp_path: Path) -> None:
    world = make_denoise_world()
    save_autoencoder(tmp_path, world.space)  # type: ignore[arg-type]
    save_critic(tmp_path, world, "latent")
    halve(tmp_path)
    again = load_denoise_world(str(tmp_path), "latent", torch.device("cpu"))
    torch.testing.assert_close(again.states, world.states, atol=1e-2, rtol=1e-2)


def test_a_world_is_loaded_once(folder: Path) -> None:
    cpu = torch.device("cpu")
    assert load_world(str(folder), cpu) is load_world(str(folder), cpu)


def test_a_changed_world_is_loaded_again(folder: Path) -> None:
    cpu = torch.device("cpu")
    first = load_world(str(folder), cpu)
    save(make_world("flat"), folder)
    assert load_world(str(folder), cpu).autoencoder.latent_shape != first.autoencoder.latent_shape


def _damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 255]) + content[-2:])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "pickle", "missing"])
@pytest.mark.parametrize("name", ["autoencoder", "detector", "images"])
def test_damaged_tensors(folder: Path, name: str, how: str) -> None:
    _damage(folder / f"{name}.safetensors", how)
    with pytest.raises(UserError, match=rf"{name}.safetensors .*make it again"):
        load_world(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("how", ["truncated", "empty"])
def test_damaged_description(folder: Path, how: str) -> None:
    _damage(folder / "detector.json", how)
    with pytest.raises(UserError, match=r"detector.json is damaged"):
        load_detector(folder)


def test_foreign_descriptions(folder: Path) -> None:
    path = folder / "detector.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"kind": "sandwich"}, "describes 'sandwich'"),
        ({"format": 99}, "format 99"),
        ({"facts": {**good["facts"], "architecture": "oracle"}}, "architecture 'oracle'"),
        ({"facts": {**good["facts"], "colour": "red"}}, "arguments that don't fit"),
        ({"facts": {**good["facts"], "width": 32}}, "doesn't fit the architecture"),
        ({"facts": {**good["facts"], "width": -4}}, "arguments that don't fit"),
        ({"facts": {**good["facts"], "heads": 0}}, "arguments that don't fit"),
        ({"facts": [1]}, "no facts"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(UserError, match=message):
            load_detector(folder)
    path.write_text("[]")
    with pytest.raises(UserError, match="describes 'list'"):
        load_detector(folder)


def write_format_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world as it was stored before artifacts and their facts got the names of today."""
    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "FORMAT", 2)
        save(make_world("spatial"), folder)
    path = folder / "detector.json"
    description = json.loads(path.read_text())
    description["facts"]["most"] = description["facts"].pop("depth")
    path.write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("name", ["autoencoder", "detector", "images"])
def test_artifacts_of_format_2_are_refused_by_a_line_that_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = write_format_2(tmp_path / "old", monkeypatch), save(make_world("spatial"), tmp_path / "new")
    for suffix in (".json", ".safetensors"):  # one old artifact among new ones is refused as well
        shutil.copy(old / f"{name}{suffix}", new / f"{name}{suffix}")
    before = (new / f"{name}.json").read_bytes()
    with pytest.raises(UserError) as refused:
        gym.make("LatentAug-v0", artifacts=str(new))
    assert str(refused.value) == (
        f"{new / name}.json has format 2, but this version reads format 3: delete the folder {new}, and the "
        "command that made it makes it again"
    )
    assert (new / f"{name}.json").read_bytes() == before  # nothing is migrated


def test_a_file_that_only_claims_to_be_tensors(tmp_path: Path) -> None:
    import hashlib

    content = b"not tensors at all"
    description = {"kind": "x", "format": FORMAT, "facts": {}, "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "x.safetensors").write_bytes(content)
    (tmp_path / "x.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="no safetensors file"):
        load_artifact(tmp_path, "x", "x")


def test_a_save_that_fills_the_disk_with_zeros_is_undone_unread(tmp_path: Path) -> None:
    save_artifact(tmp_path, "checkpoint", "checkpoint", {"a": torch.ones(1)}, {})
    with (tmp_path / "checkpoint.next.safetensors").open("wb") as file:
        file.truncate(2**36)
    settle_artifact(tmp_path, "checkpoint")
    assert not (tmp_path / "checkpoint.next.safetensors").exists()
    assert float(load_artifact(tmp_path, "checkpoint", "checkpoint")[0]["a"]) == 1


def test_a_detector_of_another_world(folder: Path, tmp_path: Path) -> None:
    other = make_world("spatial", size=16)
    assert isinstance(other.detector, TransformerDetector)
    save_detector(folder, other.detector)
    with pytest.raises(UserError, match=r"detector.json is not the one .* different worlds"):
        load_world(str(folder), torch.device("cpu"))
    seal_world(folder)  # a manifest that was made up doesn't help
    with pytest.raises(UserError, match=r"a detector reads image: \(1, 16, 16\), .* different worlds"):
        load_world(str(folder), torch.device("cpu"))


def test_a_detector_of_equal_shapes_from_another_world(folder: Path) -> None:
    other = copy.deepcopy(make_world("spatial").detector)
    assert isinstance(other, TransformerDetector)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_detector(folder, other)
    with pytest.raises(UserError, match=r"detector.json is not the one .* different worlds"):
        load_world(str(folder), torch.device("cpu"))


def test_a_world_takes_the_place_of_another(folder: Path, tmp_path: Path) -> None:
    world = make_world("spatial")
    with_more = save(world.with_reward_ensemble([world.detector]), tmp_path / "more")
    assert (with_more / "reward_ensemble.json").is_file()
    copy_world(folder, with_more)
    assert not (with_more / "reward_ensemble.json").is_file()
    assert not load_world(str(with_more), torch.device("cpu")).reward_ensemble


@pytest.mark.parametrize("content", ["[]", "{}", '{"artifacts": {"detector": "0"}}', "nonsense"])
def test_a_damaged_manifest(folder: Path, content: str) -> None:
    (folder / "world.json").write_text(content)
    with pytest.raises(UserError, match=r"world.json (doesn't list the artifacts|is damaged)"):
        load_world(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_an_interrupted_overwrite_leaves_no_mixture(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the old artifact until one rename, and from then on the new one."""
    save_artifact(tmp_path, "part", "part", {"a": torch.zeros(1)}, {"is": "old"})
    with stopped_at_rename(stop_at, monkeypatch):
        save_artifact(tmp_path, "part", "part", {"a": torch.ones(1)}, {"is": "new"})
    tensors, facts = load_artifact(tmp_path, "part", "part")
    assert facts["is"] == ("new" if stop_at > 2 else "old")
    assert float(tensors["a"]) == (stop_at > 2)
    with stopped_at_rename(1, monkeypatch):  # a second stop, wherever the first one was
        save_artifact(tmp_path, "part", "part", {"a": torch.full((1,), 2.0)}, {"is": "newest"})
    assert float(load_artifact(tmp_path, "part", "part")[0]["a"]) == (stop_at > 2)
    copy_artifact(tmp_path, tmp_path / "copy", "part")
    assert load_artifact(tmp_path / "copy", "part", "part")[1] == facts
    save_artifact(tmp_path, "part", "part", {"a": torch.full((1,), 2.0)}, {"is": "newest"})
    assert float(load_artifact(tmp_path, "part", "part")[0]["a"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"part.json", "part.safetensors", "copy"}


@contextmanager
def stopped_at_rename(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A context that Ctrl-C leaves before the rename of this number, if there are so many."""
    replace, calls = os.replace, []

    def until(*arguments: Path) -> None:
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr("os.replace", until)
        yield


def test_images_that_dont_fit(folder: Path) -> None:
    save_images(folder, torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    seal_world(folder)
    with pytest.raises(UserError, match="starting images must be one or more uint8"):
        load_world(str(folder), torch.device("cpu"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_finding_a_world(folder: Path, tmp_path: Path) -> None:
    assert find_world("digits").name == "digits"
    with pytest.raises(UserError, match="neither a built-in world"):
        find_world(str(tmp_path))  # the world there has no metrics: it may be half made
    (folder / "metrics.json").write_text("{}")
    assert find_world(str(tmp_path)) == folder
    newer = tmp_path / "newer"
    shutil.copytree(folder, newer)
    os.utime(newer / "metrics.json", (2e9, 2e9))
    assert find_world(str(tmp_path)) == newer
    (newer / "world.json").unlink()
    assert find_world(str(tmp_path)) == folder  # not whole
    with pytest.raises(UserError, match=r"no world.json"):
        find_world(str(newer))
    (newer / "detector.json").unlink()
    with pytest.raises(UserError, match="no detector yet"):
        find_world(str(newer))


def test_artifacts_hold_any_tensor(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).T, "b": torch.tensor(True), "c": torch.zeros(0, 3)}
    save_artifact(tmp_path, "x", "thing", tensors, {"note": "Δz"})
    loaded, facts = load_artifact(tmp_path, "x", "thing")
    assert facts == {"note": "Δz"}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_autoencoder_keeps_its_statistics(tmp_path: Path) -> None:
    frozen = make_world("flat").autoencoder
    save_autoencoder(tmp_path, frozen)
    again = load_autoencoder(tmp_path)
    for (name, a), b in zip(frozen.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_augmented_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "augmented.npz"
    with pytest.raises(UserError, match="is missing"):
        load_augmented(path)
    made = Augmented(
        torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8),
        torch.rand(5, 1, 8, 8) > 0.5,
        torch.rand(5, 1, 1, 1) > 0.5,
        torch.tensor([0, 1, 1, 0, 1]),
        torch.arange(5),
        torch.randn(5, 4),
        torch.randn(5),
        torch.tensor([-1, 2, -1, 0, 1]),
        torch.rand(5, 3) > 0.5,
    )
    save_augmented(path, made)
    again = load_augmented(path)
    for name, value in vars(made).items():
        assert torch.equal(value, getattr(again, name)), name
    for how in ("truncated", "empty", "pickle"):
        save_augmented(path, made)
        _damage(path, how)
        with pytest.raises(UserError, match="is damaged"):
            load_augmented(path)
