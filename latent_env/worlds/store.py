"""Worlds on disk: where they are found, which files they have, and how they are written and loaded."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from latent_common.artifacts import (
    copy_artifact,
    load_artifact,
    read_json,
    remove_artifact,
    save_artifact,
    write_atomically,
    write_json,
)
from latent_common.errors import UserError
from latent_common.files import check_path, remove_unfinished
from latent_env.autoencoders.frozen import as_float
from latent_env.worlds.artifacts import (
    BACKBONE,
    digest_of_artifact,
    load_autoencoder,
    load_backbone,
    load_detector,
    save_autoencoder,
    save_backbone,
    save_detector,
)
from latent_env.worlds.decision import DECISION, save_decision
from latent_env.worlds.labelled_anomalies import (
    LABELLED_ANOMALIES,
    load_labelled_anomalies,
    save_labelled_anomalies,
)
from latent_env.worlds.reference_set import REFERENCE_SET, load_reference_set, save_reference_set
from latent_env.worlds.reward_ensemble import (
    REWARD_ENSEMBLE,
    load_reward_ensemble,
    save_reward_ensemble,
)
from latent_env.worlds.thresholds import Decision
from latent_env.worlds.world import World

BUILTIN = Path(__file__).parents[1] / "builtin"

MANIFEST = "world.json"
"""The file that says which artifacts make up a world, and what was in each; it is written last."""

COMPLETE = "metrics.json"
"""The file that a stage writes last; its presence says that the folder is whole."""


def builtin_names() -> list[str]:
    """The worlds that ship inside the package."""
    if not BUILTIN.is_dir():
        return []
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / MANIFEST).is_file())


TRAIN, TEST = SPLITS = ("train", "test")
"""Where the images come from that episodes start from."""

STARTS = {TRAIN: "images", TEST: "test_images"}
"""The artifact with the starting images of each split."""

PARTS = ("autoencoder", "detector", "images")
"""The artifacts that every world has."""

EXTRAS = (BACKBONE, REFERENCE_SET, REWARD_ENSEMBLE, LABELLED_ANOMALIES, DECISION, STARTS[TEST])
"""Artifacts that a world may have in addition."""


def copy_world(folder: Path, target: Path) -> None:
    """Copy the world's artifacts from ``folder`` to ``target``, in place of a world that was there."""
    unseal_world(target)
    for name in read_manifest(folder):
        copy_artifact(folder, target, name)
    write_atomically(target / MANIFEST, (folder / MANIFEST).read_bytes())


def unseal_world(folder: Path) -> None:
    """Remove the world in ``folder``, if there is one: what another leaves out must not stay behind."""
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_unfinished(folder / MANIFEST)
    for name in (*PARTS, *EXTRAS):
        remove_artifact(folder, name)


def seal_world(folder: Path) -> None:
    """Write the manifest of the artifacts in ``folder``: from now on they are one world."""
    there = [name for name in (*PARTS, *EXTRAS) if (folder / f"{name}.json").is_file()]
    write_json(folder / MANIFEST, {"artifacts": {name: digest_of_artifact(folder, name) for name in there}})


def read_manifest(folder: Path) -> dict[str, str]:
    """The artifacts of the world in ``folder`` and their digests."""
    content = read_json(folder / MANIFEST)
    found = content.get("artifacts") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not set(PARTS) <= set(found) <= {*PARTS, *EXTRAS}:
        raise UserError(f"{folder / MANIFEST} doesn't list the artifacts of a world: make the folder again")
    return found


def save_world(folder: Path, world: World, decision: Decision | None = None) -> None:
    """Write all that ``gym.make("LatentAug-v0", artifacts=folder)`` needs.

    :param decision: what thresholds of the world's detector are chosen by; ``load_detector`` needs it.
    """
    unseal_world(folder)
    save_autoencoder(folder, world.autoencoder)
    slow_to_encode = world.autoencoder.whitens_itself
    save_images(folder, world.images, world.latents if slow_to_encode else None)
    save_detector(folder, world.detector)
    if world.backbone is not None:
        save_backbone(folder, world.backbone)
    if world.reference_set is not None:
        save_reference_set(folder, world.reference_set)
    if world.labelled_anomalies is not None:
        save_labelled_anomalies(folder, world.labelled_anomalies)
    if world.reward_ensemble:
        save_reward_ensemble(folder, world.reward_ensemble, world.held_out_detector)
    if decision is not None:
        save_decision(folder, decision)
    seal_world(folder)


def save_images(folder: Path, images: Tensor, latents: Tensor | None = None, split: str = TRAIN) -> None:
    """Write starting images ``(N, C, H, W)`` uint8 as the artifact of ``split``.

    Their ``latents``, if given, are stored too, so that loading doesn't have to encode them again.
    """
    tensors = {"images": images} if latents is None else {"images": images, "latents": latents.half()}
    save_artifact(folder, STARTS[split], "images", tensors, {"count": len(images)})


def find_world(artifacts: str) -> Path:
    """The folder of a built-in world, of a finished run, or of the newest finished run below it."""
    if artifacts in builtin_names():
        return BUILTIN / artifacts
    folder = Path(artifacts)
    if (folder / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        if (folder / "detector.json").is_file():
            raise UserError(
                f"artifacts={artifacts} holds a detector but no {MANIFEST}: it is not finished, or an older "
                "version made it; make it again"
            )
        if (folder / "autoencoder.json").is_file():
            raise UserError(
                f"artifacts={artifacts} holds an autoencoder but no detector yet: "
                f"`python train_detector.py` makes a folder with both"
            )
        newest = newest_run(folder, MANIFEST)
        if newest is not None:
            return newest
    raise UserError(
        f"artifacts={artifacts} is neither a built-in world ({', '.join(builtin_names())}) nor a folder "
        f"that a stage has filled: `python train_detector.py dataset=…` makes one below runs/"
    )


def newest_run(folder: Path, *names: str) -> Path | None:
    """The newest finished run below ``folder`` that has one of the files ``names``; None without any.

    ``folder`` may be one of runs, of one data set, or of one stage.
    """
    depths = ("*", "*/*", "*/*/*")  # no deeper: the disk is large
    finished = [path for depth in depths for path in folder.glob(f"{depth}/{COMPLETE}")]
    whole = [path for path in finished if any((path.parent / name).is_file() for name in names)]
    return max(whole, key=lambda path: path.stat().st_mtime).parent if whole else None


def load_world(artifacts: str, device: torch.device, split: str = TRAIN) -> World:
    """The world called ``artifacts``: a built-in name or a folder. Loaded once a process and device.

    :param split: where starting images come from; only built-in worlds have ``test`` ones.
    """
    check_path(artifacts, "artifacts")
    folder = find_world(artifacts).resolve()
    files = [folder / MANIFEST, *(folder / f"{name}.json" for name in (*PARTS, *EXTRAS))]
    stamp = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    return _load(folder, device, split, stamp)


def check_split(folder: Path, split: str, there: bool) -> None:
    """Raise a ``UserError`` unless the world in ``folder`` has starting images of ``split``."""
    if not there:
        raise UserError(
            f"{folder} has no images for split={split}: only the built-in worlds "
            f"({', '.join(builtin_names())}) have them; leave split out"
        )


def _check_finite(world: World) -> None:
    """Raise a ``UserError`` if the networks make anything but numbers of the world's own images."""
    with torch.inference_mode():
        first = world.latents[:1]
        inputs = (first,) if world.reads_latents else world.detector_inputs(as_float(world.images[:1], first))
        found = [world.latents, *world.detector(*inputs)]
    if not all(part.isfinite().all() for part in found):
        raise UserError("the weights are so large that results overflow: make the folder again")


@functools.lru_cache(maxsize=8)
def _load(folder: Path, device: torch.device, split: str, stamp: tuple[int, ...]) -> World:  # noqa: ARG001
    listed, starts = read_manifest(folder), STARTS[split]
    check_split(folder, split, starts in listed)
    tensors, _ = load_artifact(folder, starts, "images")
    autoencoder, detector = load_autoencoder(folder), load_detector(folder)
    backbone = load_backbone(folder) if BACKBONE in listed else None
    for name, digest in listed.items():
        if not (folder / f"{name}.json").is_file():
            raise UserError(f"{folder / name}.json is missing: make the folder again")
        if digest_of_artifact(folder, name) != digest:
            raise UserError(
                f"{folder / name}.json is not the one that this world was made with: its parts come from "
                "different worlds; make the folder again"
            )
    for name in EXTRAS:
        if name not in listed and (folder / f"{name}.json").is_file():
            raise UserError(f"{folder / MANIFEST} doesn't list {name}.json: make the folder again")
    if "images" not in tensors:
        raise UserError(f"{folder / starts}.safetensors holds no images: make the folder again")
    try:
        world = World.build(
            autoencoder, detector, tensors["images"], device, tensors.get("latents"), backbone
        )
        _check_finite(world)
        if REWARD_ENSEMBLE in listed:
            world = world.with_reward_ensemble(*load_reward_ensemble(folder, world.detector))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    reference_set = load_reference_set(folder) if REFERENCE_SET in listed else None
    if reference_set is not None and not reference_set.fits(detector.input_shape, world.token_shape):
        raise UserError(f"{folder / 'reference_set.safetensors'} is of another world: make it again")
    anomalies = load_labelled_anomalies(folder) if LABELLED_ANOMALIES in listed else None
    if anomalies is not None and tuple(anomalies.latents.shape[2:]) != autoencoder.latent_shape:
        raise UserError(f"{folder / LABELLED_ANOMALIES}.safetensors is of another world: make it again")
    return world.with_reference_set(reference_set).with_labelled_anomalies(anomalies)
