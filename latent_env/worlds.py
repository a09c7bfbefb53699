"""What a world is made of: a frozen autoencoder, a detector, and the images episodes start from."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.base import IMAGE, LATENT, Detection, Detector
from detectors.errors import UserError
from detectors.heads import Headed, is_headed
from detectors.precision import FULL, computing_in
from detectors.rdna import RdnaDetector
from latent_env.artifacts import (
    load_artifact,
    load_autoencoder,
    load_detector,
    save_artifact,
    write_atomically,
)
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.frozen import as_float
from latent_env.examples import EXAMPLES, Examples, load_examples
from latent_env.judges import JUDGES, load_judges, parts_of, transformer_of
from latent_env.trial import TRIAL, Trial, load_trial

BUILTIN = Path(__file__).parent / "builtin"
COMPLETE = "metrics.json"
"""The file that a stage writes last; its presence says that the folder is whole."""

# Starting images as floats, and decoded, are kept when each fits here; otherwise a step makes its own.
KEPT_BYTES = 512 * 2**20


def builtin_names() -> list[str]:
    """The worlds that ship inside the package."""
    if not BUILTIN.is_dir():
        return []
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "detector.json").is_file())


def resolve_device(device: str) -> torch.device:
    """``"auto"`` is a GPU where there is one; a device that isn't there is an error."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"device={device} is unknown: choose cpu, cuda or auto")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"device={device}, but PyTorch finds {found} CUDA GPUs here: choose cpu or auto")
    return resolved


@dataclass(frozen=True, eq=False)
class World:
    """The frozen parts that any number of episodes, worlds and agents share."""

    autoencoder: FrozenAutoencoder
    detector: Detector
    images: Tensor
    """``(N, C, H, W)`` uint8: normal images, the starting points of episodes."""
    latents: Tensor
    """``(N, *latent_shape)``: their whitened latents."""
    judges: tuple[Detector, ...] = ()
    """Small detectors whose mean word, less their disagreement, rewards go by; none: the detector."""
    unseen: Detector | None = None
    """One more, which no reward goes by: where it disagrees with them, the reward is being fooled."""
    trial: Trial | None = None
    """Labelled images that a reward is measured on."""
    examples: Examples | None = None
    """Labelled anomalies that detectors train on, which an agent may graft."""
    precision: str = FULL
    """In which numbers networks compute during steps; what facts they tell is float32."""

    @classmethod
    def build(
        cls,
        autoencoder: FrozenAutoencoder,
        detector: Detector,
        images: Tensor,
        device: torch.device,
        latents: Tensor | None = None,
    ) -> World:
        """Put the parts on the device.

        ``images (N, C, H, W)`` uint8 are encoded once and for all, unless their ``latents`` are known.
        """
        autoencoder = autoencoder.to(device)
        images = images.to(device)
        if latents is None:
            latents = autoencoder.in_batches(images)
        assert isinstance(detector, torch.nn.Module)
        return cls(autoencoder, detector.to(device), images, latents.to(device).float())

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.latents.device

    @property
    def judges_latents(self) -> bool:
        """Whether the detector reads latents, so that nothing needs to be decoded to be judged."""
        return self.detector.input == LATENT

    def with_detector(self, detector: Detector) -> World:
        """The same world, judged by another detector."""
        assert isinstance(detector, torch.nn.Module)
        return replace(self, detector=detector.to(self.device))

    def with_judges(self, judges: Sequence[Detector], unseen: Detector | None = None) -> World:
        """The same world, where rewards go by ``judges``."""
        members = [*judges, *([] if unseen is None else [unseen])]
        for member in members:
            assert isinstance(member, torch.nn.Module)
            member.to(self.device)
        return replace(self, judges=tuple(judges), unseen=unseen)

    def with_trial(self, trial: Trial | None) -> World:
        """The same world, where rewards are measured on ``trial``."""
        return replace(self, trial=None if trial is None else trial.to(self.device))

    def with_examples(self, examples: Examples | None) -> World:
        """The same world, where an agent may graft ``examples``."""
        return replace(self, examples=None if examples is None else examples.to(self.device))

    def networks(self) -> torch.autocast:
        """A context in which networks compute in the world's precision."""
        return computing_in(self.precision, self.device)

    @property
    def heads(self) -> list[Headed]:
        """The judges, or the detector, as detectors whose last layer can be copied."""
        parts: list[Any] = [transformer_of(judge) for judge in self.judges or (self.detector,)]
        for judge in parts:
            if not is_headed(judge):
                raise UserError(
                    f"a reward that trains copies of a detector's last layer needs one that is trained, "
                    f"not a {type(judge).__name__}: choose detector=transformer, or other reward terms"
                )
        return parts

    def start_images(self, index: Tensor) -> Tensor:
        """The starting images ``index (K,)`` as floats, ``(K, C, H, W)``."""
        if self._floats is not None:
            return self._floats[index]
        return as_float(self.images[index], self.latents)

    def start_decoded(self, index: Tensor) -> Tensor:
        """What the decoder makes of the starting latents ``index (K,)``, ``(K, C, H, W)``."""
        if self._decoded is not None:
            return self._decoded[index]
        with self.networks():
            return self.autoencoder.decode(self.latents[index]).float()

    @cached_property
    def _floats(self) -> Tensor | None:
        """All starting images as floats, under the same conditions."""
        return as_float(self.images, self.latents) if self._keeps_floats else None

    @property
    def _keeps_floats(self) -> bool:
        """Whether every step asks for some images and memory allows it to have all of them at hand."""
        return not self.judges_latents and self.images.numel() * self.latents.element_size() <= KEPT_BYTES

    @cached_property
    def _decoded(self) -> Tensor | None:
        """All starting latents decoded, where that is worth it."""
        if not self._keeps_floats:
            return None
        with torch.no_grad(), self.networks():
            return self.autoencoder.in_parts(self.latents).float()

    def read(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The same of images, or of latents that are known where the detector reads those."""
        return (inputs,) if self.judges_latents else self.look(inputs)

    def detect(self, images: Tensor) -> Detection:
        """The detector's word on images ``(B, C, H, W)`` in [0, 1]."""
        return self.detector(*self.look(images))

    def show(self, images: Tensor) -> tuple[Detection, Tensor]:
        """The detector's word on images ``(B, C, H, W)`` in [0, 1], and the reconstructions it goes by."""
        if isinstance(self.detector, RdnaDetector):
            restored, detection = self.detector.examine(images)
            return detection, restored
        return self.detect(images), self.autoencoder(images)

    def look(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the detector reads of images ``(B, C, H, W)`` in [0, 1]."""
        return self.autoencoder.shown(images, self.detector.input)


PARTS = ("autoencoder", "detector", "images")
EXTRAS = (TRIAL, JUDGES, EXAMPLES)
"""What a world may have as well: what rewards are measured with, and what agents may graft."""


def copy_world(folder: Path, target: Path) -> None:
    """Copy the world in ``folder`` to ``target``, and nothing else that lies there."""
    for name in (*PARTS, *(extra for extra in EXTRAS if (folder / f"{extra}.json").is_file())):
        for suffix in (".safetensors", ".json"):  # the JSON last: it declares the tensors whole
            write_atomically(target / (name + suffix), (folder / (name + suffix)).read_bytes())


def check_writable(folder: str, key: str) -> None:
    """Complain now about a folder that can't be written to later."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{key}={folder}: can't write there ({error.strerror})") from error


def save_images(folder: Path, images: Tensor, latents: Tensor | None = None) -> None:
    """Write starting images ``(N, C, H, W)`` uint8 as the artifact ``images``.

    Their ``latents`` are kept beside them where encoding them again would take long.
    """
    tensors = {"images": images} if latents is None else {"images": images, "latents": latents.half()}
    save_artifact(folder, "images", "images", tensors, {"count": len(images)})


def _has_all_parts(folder: Path) -> bool:
    return all((folder / f"{name}.json").is_file() for name in PARTS)


def find_world(artifacts: str) -> Path:
    """The folder of a built-in world, of a stage, or the newest whole one below a folder of runs."""
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
    """The world called ``artifacts``, loaded once a process and device: frozen parts can be shared."""
    if not isinstance(artifacts, str) or not artifacts:
        raise UserError(f"artifacts={artifacts!r} must be a built-in name or a folder")
    folder = find_world(artifacts).resolve()
    files = [folder / f"{name}.json" for name in (*PARTS, *EXTRAS)]
    stamp = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
    return _load(folder, device, stamp)


@functools.lru_cache(maxsize=8)
def _load(folder: Path, device: torch.device, stamp: tuple[int, ...]) -> World:  # noqa: ARG001
    tensors, _ = load_artifact(folder, "images", "images")
    autoencoder, detector = load_autoencoder(folder), load_detector(folder)
    images, latents = tensors.get("images"), tensors.get("latents")
    shape = (autoencoder.channels, autoencoder.size, autoencoder.size)
    for part in (detector, *parts_of(detector)):
        reads = LATENT if part.input == LATENT else IMAGE
        expected = tuple(autoencoder.latent_shape) if reads == LATENT else shape
        if tuple(part.input_shape) != expected:
            raise UserError(
                f"{folder}: the detector reads {reads}s of {tuple(part.input_shape)}, the "
                f"autoencoder has {expected}: they come from different worlds"
            )
    if images is None or images.dtype != torch.uint8 or tuple(images.shape[1:]) != shape:
        raise UserError(f"{folder / 'images.safetensors'} doesn't hold uint8 images of {shape}")
    if latents is not None and tuple(latents.shape) != (len(images), *autoencoder.latent_shape):
        raise UserError(f"{folder / 'images.safetensors'} holds latents of another autoencoder")
    world = World.build(autoencoder, detector, images, device, latents)
    judges, unseen = load_judges(folder, world.detector)
    trial = load_trial(folder)
    if trial is not None and not trial.fits(detector.input_shape, autoencoder.latent_shape):
        raise UserError(f"{folder / 'trial.safetensors'} is of another world: make it again")
    examples = load_examples(folder)
    if examples is not None and tuple(examples.latents.shape[2:]) != autoencoder.latent_shape:
        raise UserError(f"{folder / EXAMPLES}.safetensors is of another world: make it again")
    return world.with_judges(judges, unseen).with_trial(trial).with_examples(examples)
