"""What a world is made of: a frozen autoencoder, a detector, and the images episodes start from."""

from __future__ import annotations

import functools
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from detectors.base import Detection, Detector
from detectors.errors import UserError
from detectors.images import at_once
from latent_env.artifacts import (
    load_artifact,
    load_autoencoder,
    load_detector,
    save_artifact,
    write_atomically,
)
from latent_env.autoencoders import FrozenAutoencoder
from latent_env.autoencoders.frozen import as_float

BUILTIN = Path(__file__).parent / "builtin"
COMPLETE = "metrics.json"
"""The file that a stage writes last; its presence says that the folder is whole."""

# Decoded starting images are kept when they fit here; otherwise a reset decodes its own.
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
    decoded: Tensor | None
    """``(N, C, H, W)``: what the decoder makes of the latents, unless that would fill the memory."""

    @classmethod
    def build(
        cls,
        autoencoder: FrozenAutoencoder,
        detector: Detector,
        images: Tensor,
        device: torch.device,
    ) -> World:
        """Put the parts on the device and encode ``images (N, C, H, W)`` uint8 once and for all."""
        autoencoder = autoencoder.to(device)
        images = images.to(device)
        latents = autoencoder.in_batches(images)
        decoded = None
        if images.numel() * latents.element_size() <= KEPT_BYTES:
            with torch.inference_mode():
                parts = latents.split(at_once(autoencoder.size))
                decoded = torch.cat([autoencoder.decode(part) for part in parts])
        assert isinstance(detector, torch.nn.Module)
        return cls(autoencoder, detector.to(device), images, latents, decoded)

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.latents.device

    def with_detector(self, detector: Detector) -> World:
        """The same world, judged by another detector."""
        assert isinstance(detector, torch.nn.Module)
        return replace(self, detector=detector.to(self.device))

    def start(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, images (floats) and decoded images of the starting points ``index (K,)``."""
        latents = self.latents[index]
        decoded = self.autoencoder.decode(latents) if self.decoded is None else self.decoded[index]
        return latents, as_float(self.images[index], latents), decoded

    def detect(self, images: Tensor) -> Detection:
        """The detector's word on images ``(B, C, H, W)`` in [0, 1]."""
        return self.detector(images, self.autoencoder(images))


PARTS = ("autoencoder", "detector", "images")


def copy_world(folder: Path, target: Path) -> None:
    """Copy the world in ``folder`` to ``target``, and nothing else that lies there."""
    for name in PARTS:
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


def save_images(folder: Path, images: Tensor) -> None:
    """Write starting images ``(N, C, H, W)`` uint8 as the artifact ``images``."""
    save_artifact(folder, "images", "images", {"images": images}, {"count": len(images)})


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
    stamp = tuple((folder / f"{name}.json").stat().st_mtime_ns for name in PARTS)
    return _load(folder, device, stamp)


@functools.lru_cache(maxsize=8)
def _load(folder: Path, device: torch.device, stamp: tuple[int, ...]) -> World:  # noqa: ARG001
    tensors, _ = load_artifact(folder, "images", "images")
    autoencoder, detector = load_autoencoder(folder), load_detector(folder)
    images = tensors.get("images")
    judged = (detector.channels, detector.size)
    if judged != (autoencoder.channels, autoencoder.size):
        raise UserError(
            f"{folder}: the detector is for images of {judged} (channels, size), the autoencoder for "
            f"{(autoencoder.channels, autoencoder.size)}: they come from different worlds"
        )
    expected = (autoencoder.channels, autoencoder.size, autoencoder.size)
    if images is None or images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
        raise UserError(f"{folder / 'images.safetensors'} doesn't hold uint8 images of {expected}")
    return World.build(autoencoder, detector, images, device)
