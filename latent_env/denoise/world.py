"""A denoising world: a space of states, a critic, and images with their classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.artifacts import build_within, load_artifact, read_json, save_artifact
from latent_common.errors import UserError
from latent_common.files import check_path
from latent_env.denoise.critic import Critic
from latent_env.denoise.spaces import SPACES, PixelSpace, Space
from latent_env.worlds.artifacts import load_autoencoder
from latent_env.worlds.store import BUILTIN, TEST, TRAIN, check_split, newest_run

EXAMPLES, CRITIC = "examples", "critic"
EXAMPLES_OF = {TRAIN: EXAMPLES, TEST: f"test_{EXAMPLES}"}
"""The artifact with the images and classes of each split."""
MOST_CHECKED = 256
"""With so many states it is checked that a world makes numbers."""
HINT = "`python train_ppo.py env=latent_denoise dataset=…` makes one below runs/"


@dataclass(frozen=True, eq=False)
class DenoiseWorld:
    """The frozen networks and the images that any number of episodes and agents share."""

    space: Space
    critic: Critic
    images: Tensor
    """``(N, C, H, W)`` uint8: the images that forward trajectories start from."""
    labels: Tensor
    """``(N,)`` int64: the class of each."""
    class_names: tuple[str, ...]
    states: Tensor
    """``(N, *latent_shape)``: these images as states."""

    @classmethod
    def build(
        cls, space: Space, critic: Critic, images: Tensor, labels: Tensor, names: Sequence[str]
    ) -> DenoiseWorld:
        """A world on the device of ``critic``; ``images (N, C, H, W)`` uint8 are encoded here."""
        device = next(critic.parameters()).device
        critic.requires_grad_(False).eval()
        images = images.to(device)
        with torch.no_grad():
            states = space.encode_all(images).float()
        return cls(space, critic, images, labels.to(device), tuple(names), states)

    @property
    def device(self) -> torch.device:
        """The device of all its tensors."""
        return self.states.device

    def with_critic(self, critic: Critic) -> DenoiseWorld:
        """A world like this one with another critic."""
        return replace(self, critic=critic.requires_grad_(False).eval())

    def one_hot(self, classes: Tensor) -> Tensor:
        """Classes ``(B,)`` as one-hot vectors ``(B, number of classes)``."""
        return functional.one_hot(classes, len(self.class_names)).to(self.states)


def save_critic(folder: Path, world: DenoiseWorld, space: str) -> None:
    """Write the critic of a world, for ``space``, and its images with classes as ``examples``."""
    facts = {**world.critic.hyperparameters(), "autoencoder": autoencoder_digest(folder, space)}
    tensors = {"images": world.images, "labels": world.labels}
    save_artifact(folder, EXAMPLES, EXAMPLES, tensors, {"classes": list(world.class_names)})
    save_artifact(folder, f"{CRITIC}_{space}", CRITIC, world.critic.state_dict(), facts)


def autoencoder_digest(folder: Path, space: str) -> str:
    """The checksum of the autoencoder in ``folder``; empty in the space of pixels, which needs none."""
    return str(read_json(folder / "autoencoder.json").get("sha256")) if space == "latent" else ""


def builtin_denoise_names() -> list[str]:
    """The denoising worlds that ship inside the package."""
    return sorted(path.parent.name for path in BUILTIN.glob(f"*/{EXAMPLES}.json"))


def find_denoise_world(artifacts: str, space: str) -> Path:
    """The folder of a built-in world, of a finished run, or of the newest finished run below it."""
    check_path(artifacts, "artifacts")
    name = f"{CRITIC}_{space}.json"
    folder = BUILTIN / artifacts if artifacts in builtin_denoise_names() else Path(artifacts)
    if (folder / name).is_file() and (folder / f"{EXAMPLES}.json").is_file():
        return folder
    newest = newest_run(folder, name)
    if newest is not None:
        return newest
    others = [other for other in SPACES if (folder / f"{CRITIC}_{other}.json").is_file()]
    if others:
        raise UserError(
            f"artifacts={artifacts} has no critic for space={space!r}, but one for {others[0]!r}: choose "
            f"that, or train one with env.space={space}"
        )
    known = ", ".join(builtin_denoise_names())
    raise UserError(f"artifacts={artifacts} is no built-in world ({known}) and has no critic: {HINT}")


def load_denoise_world(artifacts: str, space: str, device: torch.device, split: str = TRAIN) -> DenoiseWorld:
    """The world called ``artifacts``: a built-in name or a folder. Loaded once a process and device.

    :param split: where its images come from; only built-in worlds have ``test`` ones.
    """
    folder = find_denoise_world(artifacts, space).resolve()
    files = [file for file in sorted(folder.glob("*.json")) if file.exists()]  # links may lead nowhere
    stamp = tuple(file.stat().st_mtime_ns for file in files)
    return _load(folder, space, device, split, stamp)


@functools.lru_cache(maxsize=8)
def _load(
    folder: Path,
    space: str,
    device: torch.device,
    split: str,
    stamp: tuple[int, ...],  # noqa: ARG001
) -> DenoiseWorld:
    check_split(folder, split, (folder / f"{EXAMPLES_OF[split]}.json").is_file())
    images, labels, names = read_examples(folder, split)
    weights, made = load_artifact(folder, f"{CRITIC}_{space}", CRITIC)
    if made.pop("autoencoder", None) != autoencoder_digest(folder, space):
        raise UserError(f"{folder}: critic and autoencoder come from different worlds: train it again")
    if space == "latent":
        chosen: Space = load_autoencoder(folder).to(device)
    else:
        chosen = PixelSpace(images.shape[1], images.shape[2], device)
    critic = read_critic(weights, made, folder / f"{CRITIC}_{space}.safetensors").to(device)
    if critic.shape != tuple(chosen.latent_shape) or critic.classes != len(names):
        raise UserError(f"{folder}: the critic is one of another world: train it again")
    world = DenoiseWorld.build(chosen, critic, images, labels, names)
    _check_finite(world, folder)
    return world


def _check_finite(world: DenoiseWorld, folder: Path) -> None:
    """Raise a ``UserError`` if the critic makes anything but numbers of the own states, or of noise."""
    states, classes = world.states[:MOST_CHECKED], len(world.class_names)
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states.device)
    wanted = functional.one_hot(world.labels[:MOST_CHECKED], classes).float()
    with torch.inference_mode():
        found = [states, *(world.critic(each, wanted) for each in (states, noise))]
    if not all(part.isfinite().all() for part in found):
        raise UserError(f"{folder}: the weights are so large that results overflow: train it again")


def read_examples(folder: Path, split: str = TRAIN) -> tuple[Tensor, Tensor, list[str]]:
    """Images ``(N, C, H, W)`` uint8, their classes ``(N,)``, and the names of the classes."""
    tensors, facts = load_artifact(folder, EXAMPLES_OF[split], EXAMPLES)
    path, names = folder / f"{EXAMPLES_OF[split]}.safetensors", facts.get("classes")
    if tensors.keys() != {"images", "labels"} or not isinstance(names, list) or not names:
        raise UserError(f"{path} holds no images with classes: make it again")
    images, labels = tensors["images"], tensors["labels"]
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels) or not len(images):
        raise UserError(f"{path} holds no images with classes: make it again")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise UserError(f"{path} has labels beyond its classes: make it again")
    return images, labels, names


def read_critic(weights: dict[str, Tensor], facts: dict[str, object], path: Path) -> Critic:
    """The critic that an artifact describes."""
    try:
        critic = build_within(weights, facts, lambda: Critic(**facts))  # type: ignore[arg-type]
        critic.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} doesn't fit the critic it describes ({reason}): make it again") from error
    return critic
