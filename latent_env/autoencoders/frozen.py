"""The frozen, whitened autoencoder that the environment, detectors and agents use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from detectors.base import IMAGE, LATENT
from detectors.blocks.tokens import as_tokens
from latent_common.image_source import ImageSource, evenly_spaced, images_at_once
from latent_common.progress import progress_bar

MOST_IMAGES, MOST_NUMBERS = 8192, 2**27
"""Statistics are of at most so many evenly spaced training images, and so many numbers of latents."""

MOST_CYCLES = 256
"""The error of decoding and encoding again is measured on so many latents."""

GENERATOR_PIXELS, GENERATOR_IMAGES = 2**20, 16
"""What needs decoding is measured of a generator on at most so many pixels, but on so many images if it can:
one of 256 × 256 pixels takes a CPU a second."""

GENERATOR_PARTS = 16
"""Of a generator's images so many times fewer are computed together: it is slow, and takes memory."""

MOST_ROWS = 2048
"""Principal directions are found from at most so many evenly spaced latents (or tokens)."""

DISTANCE_LEVELS = 101
"""Quantiles 0, 1, …, 100 % of the distance between a normal token and its nearest neighbour."""

LEAST_VARIANCE = 0.01
"""No dimension is scaled as if its variance were below this share of the mean variance."""

LEAST_VISIBLE, LEAST_REACH = 0.01, 4.0
"""Weaker changes are invisible, however well a decoder works; and strokes go at least so far."""

MAX_DIRECTIONS = 32
MAX_TOKEN_DIRECTIONS = 16


class Autoencoder(Protocol):
    """What an autoencoder must have to be frozen; it is also an ``nn.Module``."""

    latent_shape: tuple[int, ...]
    channels: int
    size: int
    is_generator: bool
    """Whether it is a published network: it draws sharply, and takes long for an image."""

    @property
    def natural_scales(self) -> Tensor | None:
        """``(C,)``: the deviations of channels before whitening, if it whitens latents itself; else None."""

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to raw latents ``(B, *latent_shape)``."""

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, *latent_shape)`` to images ``(B, C, H, W)`` in [0, 1]."""

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the architecture again."""


class FrozenAutoencoder(nn.Module):
    """An autoencoder that no longer learns, with statistics of the latents of its training images.

    Its latents are whitened, so a change of 1 along any dimension means one standard deviation of
    the normal images there. Besides mean and scale it keeps

    - ``directions (P, d)`` and ``direction_scales (P,)``: the leading principal directions of the
      flattened whitened latents, of unit length, and the standard deviation along each;
    - ``token_directions (K, C)``: the leading principal directions of single tokens;
    - ``normal_distances (101,)``: quantiles of the distance from a token to the nearest token at the same
      position in another normal image (at any position, where the model whitens its tokens itself), which
      measure what a normal variation is;
    - ``cycle_error``: the mean of ``‖E(D(z)) − z‖`` (root mean square a dimension) on normal images;
    - ``barely_visible``: how strong a change of the image must be to be seen, in intensities from 0 to 1;
    - ``reach``: how far strokes must go to be seen, in units of ``normal_distances[95]``.

    :func:`latent_env.visibility.measure_visibility` measures the last two.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    direction_scales: Tensor
    token_directions: Tensor
    normal_distances: Tensor
    cycle_error: Tensor
    barely_visible: Tensor
    reach: Tensor

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        shape = model.latent_shape
        self.latent_shape, self.channels, self.size = shape, model.channels, model.size
        flat = 1
        for extent in shape:
            flat *= extent
        self.latent_dimensions = flat
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        count = min(MAX_DIRECTIONS, flat)
        self.register_buffer("directions", torch.zeros(count, flat))
        self.register_buffer("direction_scales", torch.zeros(count))
        tokens = min(MAX_TOKEN_DIRECTIONS, shape[0])
        self.register_buffer("token_directions", torch.zeros(tokens, shape[0]))
        self.register_buffer("normal_distances", torch.zeros(DISTANCE_LEVELS))
        self.register_buffer("cycle_error", torch.zeros(()))
        self.register_buffer("barely_visible", torch.tensor(LEAST_VISIBLE))
        self.register_buffer("reach", torch.tensor(LEAST_REACH))
        self.requires_grad_(False)
        self.eval()

    @property
    def is_spatial(self) -> bool:
        """Whether the latent is a grid of tokens."""
        return len(self.latent_shape) == 3

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build the wrapped architecture again."""
        return self.model.hyperparameters()

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [0, 1] to whitened latents ``(B, *latent_shape)``."""
        return (self.model.encode(images) - self.mean) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Whitened latents ``(B, *latent_shape)`` to images ``(B, C, H, W)`` in [0, 1]."""
        return self.model.decode(latents * self.scale + self.mean)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstructions of ``images``, both ``(B, C, H, W)`` in [0, 1]."""
        return self.decode(self.encode(images))

    def detector_inputs(self, images: Tensor, reads: str) -> tuple[Tensor, ...]:
        """What a detector that ``reads`` images, latents or both gets for ``images (B, C, H, W)``."""
        if reads == IMAGE:
            return images, self(images)
        latents = self.encode(images)
        return (latents,) if reads == LATENT else (images, self.decode(latents), latents)

    def decode_all(self, latents: Tensor) -> Tensor:
        """Whitened latents ``(N, *latent_shape)`` to images ``(N, C, H, W)`` in [0, 1], some at a time."""
        return self._in_parts("decoding", self.decode, latents)

    def encode_all(self, images: ImageSource) -> Tensor:
        """Images ``(N, C, H, W)``, uint8 or float, to whitened latents on the model's device, in parts."""
        with torch.no_grad():
            return self._in_parts("encoding", lambda part: self.encode(as_float(part, self.mean)), images)

    def _in_parts(self, label: str, compute: Callable[[Tensor], Tensor], values: ImageSource) -> Tensor:
        """``compute(values)``, some at a time, with a progress bar if a generator has many to do."""
        slow = self.model.is_generator and len(values) * self.size**2 >= GENERATOR_PIXELS // 2
        results = []
        with progress_bar(label, len(values), hidden=not slow) as bar:
            for part in values.split(images_together(self.model)):
                results.append(compute(part))
                bar.update(len(part))
        return torch.cat(results)

    def count_to_measure(self, most: int) -> int:
        """On how many images to measure what needs decoding: ``most``, or fewer with a generator."""
        if not self.model.is_generator:
            return most
        return min(most, max(GENERATOR_PIXELS // self.size**2, GENERATOR_IMAGES))

    @property
    def natural_scales(self) -> Tensor:
        """``(C,)``: the standard deviation of normal latents along each channel before they were whitened."""
        if self.model.natural_scales is not None:
            return self.model.natural_scales
        return self.scale.flatten(1).mean(1) if self.is_spatial else self.scale

    @property
    def whitens_itself(self) -> bool:
        """Whether the model's own latents are whitened already, all tokens alike."""
        return self.model.natural_scales is not None

    @property
    def of_features(self) -> bool:
        """Whether latents are a pretrained network's features, which no decoder draws in full."""
        return self.whitens_itself and not self.model.is_generator

    @torch.no_grad()
    def calibrate(self, images: ImageSource, latents: ImageSource | None = None) -> FrozenAutoencoder:
        """Measure the statistics above on training images ``(N, C, H, W)``; returns itself.

        Of very many images some thousand evenly spaced ones are used. If the model whitens its latents
        itself, their known ``latents`` are not computed again.
        """
        self.mean.zero_()
        self.scale.fill_(1)
        most = max(min(MOST_IMAGES, MOST_NUMBERS // self.latent_dimensions), 2)
        if latents is not None and self.whitens_itself:
            white = evenly_spaced(latents, most).to(self.mean)
        else:
            white = self.encode_all(evenly_spaced(images, most)).clone()
        if not self.whitens_itself:
            self._whiten(white)
            white = (white - self.mean) / self.scale
        directions, scales = _principal(white.flatten(1), len(self.directions))
        self.directions.copy_(directions)
        self.direction_scales.copy_(scales)
        tokens = as_tokens(white)
        directions, _ = _principal(tokens.flatten(0, 1), len(self.token_directions))
        self.token_directions.copy_(directions)
        measure = _quantiles_anywhere if self.whitens_itself else _quantiles_position_wise
        self.normal_distances.copy_(measure(tokens))
        some = evenly_spaced(white, self.count_to_measure(MOST_CYCLES))
        again = self.encode_all(self.decode_all(some))
        self.cycle_error.copy_((again - some).square().flatten(1).mean(1).sqrt().mean())
        return self

    def _whiten(self, raw: Tensor) -> None:
        """Take mean and scale from raw latents ``(N, *latent_shape)``."""
        self.mean.copy_(raw.mean(0))
        variance = raw.var(0, correction=0)
        if self.is_spatial:
            # One scale a channel: the decoder is the same at every position, so a change should show as
            # much in the liver as at the body's edge, where normal images differ most.
            variance = variance.mean(dim=(1, 2), keepdim=True).expand_as(variance)
        # A dimension that hardly varies must not be blown up until its rounding errors look large.
        least = LEAST_VARIANCE * float(variance.mean()) + 1e-12
        self.scale.copy_(variance.clamp_min(least).sqrt())


def images_together(model: Autoencoder) -> int:
    """How many images to put through ``model`` together."""
    at_once = images_at_once(model.size)
    return max(at_once // GENERATOR_PARTS, 1) if model.is_generator else at_once


def as_float(images: Tensor, like: Tensor) -> Tensor:
    """Images as floats in [0, 1], of the type and on the device of ``like``; uint8 are divided by 255."""
    images = images.to(like.device)
    return images.to(like.dtype) / 255 if images.dtype == torch.uint8 else images


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` leading principal directions of ``rows (N, d)``, and the deviation along each."""
    picks = torch.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).long().to(rows.device)
    centred = rows[picks] - rows[picks].mean(0)
    # Rows and columns give Gram matrices of the same eigenvalues: take the smaller one.
    dual = len(centred) < centred.shape[1]
    wide = (centred if dual else centred.T).double()
    values, vectors = torch.linalg.eigh(wide @ wide.T / max(len(centred) - 1, 1))
    if dual:
        vectors = centred.T.double() @ vectors
        vectors = vectors / vectors.norm(dim=0).clamp_min(1e-12)
    values, vectors = values[-count:], vectors[:, -count:]
    missing = count - len(values)  # fewer images than directions: along the rest nothing varies
    values = torch.nn.functional.pad(values, (missing, 0))
    directions = torch.nn.functional.pad(vectors, (missing, 0)).flip(1).T
    # An eigenvector's sign is arbitrary: fix it, so that the same data always give the same one.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float(), values.flip(0).clamp_min(0).sqrt().float()


def _quantiles_position_wise(tokens: Tensor, most: int = 1024) -> Tensor:
    """Quantiles of the distance from a token to the nearest one at the same position in other images.

    Of ``tokens (N, T, C)`` only the first ``most`` images are compared, which bounds the work.
    """
    tokens = tokens[:most]
    if len(tokens) < 2:
        return torch.ones(DISTANCE_LEVELS)
    nearest = []
    for position in range(tokens.shape[1]):
        distances = torch.cdist(tokens[:, position], tokens[:, position])
        distances.fill_diagonal_(torch.inf)
        nearest.append(distances.amin(1))
    return _levels(torch.stack(nearest).flatten())


def _quantiles_anywhere(tokens: Tensor, most: int = 8192) -> Tensor:
    """Quantiles of the distance from a token to the nearest one at any position in other images.

    Of ``tokens (N, T, C)`` only about ``most`` are compared, evenly spaced.
    """
    if len(tokens) < 2:
        return torch.ones(DISTANCE_LEVELS)
    picks = torch.linspace(0, tokens.shape[0] * tokens.shape[1] - 1, most).long().unique().to(tokens.device)
    chosen, image = tokens.flatten(0, 1)[picks], picks // tokens.shape[1]
    nearest = []
    for part, own in zip(chosen.split(1024), image.split(1024), strict=True):
        distances = torch.cdist(part, chosen)
        nearest.append(distances.masked_fill(own[:, None] == image[None], torch.inf).amin(1))
    return _levels(torch.cat(nearest))


def _levels(distances: Tensor) -> Tensor:
    """``DISTANCE_LEVELS`` quantiles of ``distances (n,)``."""
    ordered = distances.sort().values
    # torch.quantile refuses more than 16 million values; picking from the sorted ones does not.
    picks = torch.linspace(0, len(ordered) - 1, DISTANCE_LEVELS).round().long()
    return ordered[picks.to(ordered.device)]
