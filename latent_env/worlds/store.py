"""Worlds on disk: where they are found, which files they have, and how they are written and loaded."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from detectors.base import IMAGE, LATENT
from latent_common.artifacts import load_artifact, save_artifact, write_atomically
from latent_common.errors import UserError
from latent_env.autoencoders.frozen import as_float
from latent_env.worlds.artifacts import load_autoencoder, load_detector, save_autoencoder, save_detector
from latent_env.worlds.labelled_anomalies import (
    LABELLED_ANOMALIES,
    load_labelled_anomalies,
    save_labelled_anomalies,
)
from latent_env.worlds.reference_set import REFERENCE_SET, load_reference_set, save_reference_set
from latent_env.worlds.reward_ensemble import (
    REWARD_ENSEMBLE,
    ensemble_members,
    load_reward_ensemble,
    save_reward_ensemble,
)
from latent_env.worlds.world import World

BUILTIN = Path(__file__).parents[1] / "builtin"

COMPLETE = "metrics.json"
"""The file that a stage writes last; its presence says that the folder is whole."""


def builtin_names() -> list[str]:
    """The worlds that ship inside the package."""
    if not BUILTIN.is_dir():
        return []
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "detector.json").is_file())


PARTS = ("autoencoder", "detector", "images")
"""The artifacts that every world has."""

EXTRAS = (REFERENCE_SET, REWARD_ENSEMBLE, LABELLED_ANOMALIES)
"""Artifacts that a world may have in addition."""


def copy_world(folder: Path, target: Path) -> None:
    """Copy the world's artifacts from ``folder`` to ``target``, and nothing else."""
    for name in (*PARTS, *(extra for extra in EXTRAS if (folder / f"{extra}.json").is_file())):
        for suffix in (".safetensors", ".json"):  # the JSON last: it declares the tensors whole
            write_atomically(target / (name + suffix), (folder / (name + suffix)).read_bytes())


def save_world(folder: Path, world: World) -> None:
    """Write all that ``gym.make("LatentAug-v0", artifacts=folder)`` needs."""
    save_autoencoder(folder, world.autoencoder)
    slow_to_encode = world.autoencoder.whitens_itself
    save_images(folder, world.images, world.latents if slow_to_encode else None)
    save_detector(folder, world.detector)
    if world.reference_set is not None:
        save_reference_set(folder, world.reference_set)
    if world.labelled_anomalies is not None:
        save_labelled_anomalies(folder, world.labelled_anomalies)
    if world.reward_ensemble:
        save_reward_ensemble(folder, world.reward_ensemble, world.held_out_detector)


def save_images(folder: Path, images: Tensor, latents: Tensor | None = None) -> None:
    """Write starting images ``(N, C, H, W)`` uint8 as the artifact ``images``.

    Their ``latents``, if given, are stored too, so that loading doesn't have to encode them again.
    """
    tensors = {"images": images} if latents is None else {"images": images, "latents": latents.half()}
    save_artifact(folder, "images", "images", tensors, {"count": len(images)})


def _has_all_parts(folder: Path) -> bool:
    return all((folder / f"{name}.json").is_file() for name in PARTS)


def find_world(artifacts: str) -> Path:
    """The folder of a built-in world, of a finished run, or of the newest finished run below it."""
    if artifacts in builtin_names():
        return BUILTIN / artifacts
    folder = Path(artifacts)
    if _has_all_parts(folder):
        return folder
    if folder.is_dir():
        if (folder / "autoencoder.json").is_file():
            raise UserError(
                f"artifacts={artifacts} holds an autoencoder but no detector yet: "
                f"`python train_detector.py` makes a folder with both"
            )
        # A folder of runs, of one data set, or of one stage: no deeper, the disk is large.
        depths = ("*", "*/*", "*/*/*")
        below = [path.parent for depth in depths for path in folder.glob(f"{depth}/{COMPLETE}")]
        whole = [path for path in below if _has_all_parts(path)]
        if whole:
            return max(whole, key=lambda path: (path / COMPLETE).stat().st_mtime)
    raise UserError(
        f"artifacts={artifacts} is neither a built-in world ({', '.join(builtin_names())}) nor a folder "
        f"that a stage has filled: `python train_detector.py dataset=…` makes one below runs/"
    )


def load_world(artifacts: str, device: torch.device) -> World:
    """The world called ``artifacts``: a built-in name or a folder. Loaded once a process and device."""
    if not isinstance(artifacts, str) or not artifacts:
        raise UserError(f"artifacts={artifacts!r} must be a built-in name or a folder")
    folder = find_world(artifacts).resolve()
    files = [folder / f"{name}.json" for name in (*PARTS, *EXTRAS)]
    stamp = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    return _load(folder, device, stamp)


def _check_finite(world: World, folder: Path) -> None:
    """Raise a ``UserError`` if the networks make anything but numbers of the world's own images."""
    with torch.inference_mode():
        first = world.latents[:1] if world.reads_latents else as_float(world.images[:1], world.latents)
        found = [world.latents, *world.detector(*world.inputs_from_stored(first))]
    if not all(part.isfinite().all() for part in found):
        raise UserError(f"{folder}: the weights are so large that results overflow: make the folder again")


@functools.lru_cache(maxsize=8)
def _load(folder: Path, device: torch.device, stamp: tuple[int, ...]) -> World:  # noqa: ARG001
    tensors, _ = load_artifact(folder, "images", "images")
    autoencoder, detector = load_autoencoder(folder), load_detector(folder)
    images, latents = tensors.get("images"), tensors.get("latents")
    shape = (autoencoder.channels, autoencoder.size, autoencoder.size)
    for part in (detector, *ensemble_members(detector)):
        reads = LATENT if part.input == LATENT else IMAGE
        expected = tuple(autoencoder.latent_shape) if reads == LATENT else shape
        if tuple(part.input_shape) != expected:
            raise UserError(
                f"{folder}: the detector reads {reads}s of {tuple(part.input_shape)}, but the "
                f"autoencoder's are {expected}: they come from different worlds; make the folder again"
            )
    if images is None or images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape or not len(images):
        raise UserError(
            f"{folder / 'images.safetensors'} doesn't hold uint8 images of {shape}: make the folder again"
        )
    if latents is not None and tuple(latents.shape) != (len(images), *autoencoder.latent_shape):
        raise UserError(
            f"{folder / 'images.safetensors'} holds latents of another autoencoder: make the folder again"
        )
    world = World.build(autoencoder, detector, images, device, latents)
    _check_finite(world, folder)
    reward_ensemble, held_out_detector = load_reward_ensemble(folder, world.detector)
    reference_set = load_reference_set(folder)
    if reference_set is not None and not reference_set.fits(detector.input_shape, autoencoder.latent_shape):
        raise UserError(f"{folder / 'reference_set.safetensors'} is of another world: make it again")
    labelled_anomalies = load_labelled_anomalies(folder)
    if (
        labelled_anomalies is not None
        and tuple(labelled_anomalies.latents.shape[2:]) != autoencoder.latent_shape
    ):
        raise UserError(f"{folder / LABELLED_ANOMALIES}.safetensors is of another world: make it again")
    return (
        world.with_reward_ensemble(reward_ensemble, held_out_detector)
        .with_reference_set(reference_set)
        .with_labelled_anomalies(labelled_anomalies)
    )
