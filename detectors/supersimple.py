"""SuperSimpleNet: two small heads on frozen features that learn from noise in these features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detectors.base import LATENT, Detection, check_tokens
from detectors.blocks.last_layer import LastLayerInput
from detectors.blocks.tokens import TOP_TOKENS, top_tokens
from detectors.distances.base import location_and_scale
from detectors.training.batches import Batch
from latent_common.errors import UserError
from latent_common.image_source import ImageSource

SLOPE = 0.2
"""Of the segmentation head's activation below 0."""

WIDTHS_OF_A_CHANNEL = 8
"""The classification head has one channel for so many of the segmentation head."""

REACH = 5
"""Positions a side that the classification head's convolution sees."""

FOCUS = 4
"""The exponent of the focal losses: what is nearly right already counts for little."""

MARGIN = 0.5
"""Map logits that are right by this much have no truncated loss."""

MOST_UPSCALE = 8
"""As the configuration allows: finer maps show nothing more, and fill the memory."""

CALIBRATED_AT_ONCE = 16
"""Latents that calibration scores at once."""

SCORE, MAP = 0, 1
"""Positions in the statistics over normal images: of scores, and of the highest values of maps."""


class SuperSimpleDetector(nn.Module):
    """Tokens ``(B, C, h, w)`` to an anomaly logit for the image, and one for every place of a finer grid.

    The recipe is that of SuperSimpleNet (Rolih, Fučka and Skočaj, 2024). Tokens get their natural scales
    back, see :meth:`set_scales`, and are interpolated to the finer grid. A linear layer adapts them, and the
    segmentation head, of 1×1 convolutions, draws the map. The classification head reads tokens and map by
    one convolution; its output and the map, each averaged and at its maximum, give a logit.

    An image's score is this logit and the mean of the map's highest values, both standardised over normal
    images and added: noise teaches the map sooner than the classification head. In training mode the score is
    the logit alone, and neither score nor map are calibrated, see :meth:`calibrate`.

    :param latent_shape: of what it reads, ``(C, h, w)``.
    :param width: channels of the segmentation head; the classification head has an eighth of them.
    :param upscale: positions a side that a token is interpolated to.
    :param classifies: whether it has the classification head, which takes two fifths of the time. If not, the
        map's highest values are the score, and images whose mask isn't known teach nothing.
    :param reads: whether tokens are those of latents, or of a backbone's features.
    """

    token_scales: Tensor
    means: Tensor
    stds: Tensor
    location: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_shape: Sequence[int],
        width: int = 256,
        upscale: int = 2,
        reads: str = LATENT,
        classifies: bool = True,
    ) -> None:
        super().__init__()
        self.input = check_tokens(reads)
        self.input_shape = tuple(latent_shape)
        if len(self.input_shape) != 3:
            raise UserError(
                f"detector=supersimple reads tokens on a grid, and the latent is flat, {self.input_shape}: "
                "choose detector.backbone=<folder or hub name>, autoencoder.latent=spatial, or "
                "detector=transformer"
            )
        if width < 1 or not 1 <= upscale <= MOST_UPSCALE:
            raise ValueError(f"a detector can't have width={width} and upscale={upscale}")
        self.width, self.upscale, self.classifies = width, upscale, classifies
        components, narrow = self.input_shape[0], max(width // WIDTHS_OF_A_CHANNEL, 1)
        self.adaptor = nn.Conv2d(components, components, 1)
        self.hidden = nn.Sequential(
            nn.Conv2d(components, width, 1), nn.BatchNorm2d(width), nn.LeakyReLU(SLOPE)
        )
        self.out = nn.Conv2d(width, 1, 1, bias=False)
        if classifies:
            # One convolution of tokens and map, in two parts: tokens never need a gradient while it learns.
            self.of_tokens = nn.Conv2d(components, narrow, REACH, padding=REACH // 2)
            self.of_map = nn.Conv2d(1, narrow, REACH, padding=REACH // 2, bias=False)
            self.after = nn.Sequential(nn.BatchNorm2d(narrow), nn.ReLU())
            self.classify = nn.Linear(2 * narrow + 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)
        self.register_buffer("token_scales", torch.ones(components))
        # Over normal images: of the classification head's logits, and of the highest values of the maps.
        self.register_buffer("means", torch.zeros(2))
        self.register_buffer("stds", torch.ones(2))
        # Over normal images: of scores, and of the highest values of maps.
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        # Convolutions are a quarter faster so; PyTorch's stubs forget this form of `to`.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hyperparameters(self) -> dict[str, Any]:
        """The arguments that build this architecture again."""
        own = {name: getattr(self, name) for name in ("width", "upscale", "classifies")}
        return {"latent_shape": list(self.input_shape), "reads": self.input, **own}

    @property
    def map_grid(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        _, rows, columns = self.input_shape
        return rows * self.upscale, columns * self.upscale

    def set_scales(self, scales: Tensor) -> None:
        """Take the standard deviations ``(C,)`` by which whitening divided the tokens.

        Noise of one strength then drowns what varies much, and stands out from what hardly varies: the heads
        learn which differences mean something. Only the ratios of the scales count.
        """
        self.token_scales.copy_(scales / scales.square().mean().sqrt().clamp_min(1e-12))

    def forward(self, latents: Tensor, noise: Tensor | None = None) -> Detection:
        """Score tokens ``(B, C, h, w)``.

        :param noise: ``(B, C, H, W)``, to be added to tokens and adapted tokens on the finer grid.
        """
        logits, maps = self._heads(latents, noise)
        if self.training:
            return Detection(logits, maps)
        score = (self._joined(logits, maps) - self.location[SCORE]) / self.scale[SCORE]
        return Detection(score, (maps - self.location[MAP]) / self.scale[MAP])

    def _heads(self, latents: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The outputs of both heads: logits of images ``(B,)``, and maps ``(B, 1, H, W)``."""
        tokens = self._interpolated(latents)
        adapted = self.adaptor(tokens)
        if noise is not None:
            tokens, adapted = tokens + noise, adapted + noise
        maps = self.out(self.hidden(adapted))
        return self._logits(tokens, maps), maps

    def _joined(self, logits: Tensor, maps: Tensor) -> Tensor:
        """The sum of the standardised parts of a score, ``(B,)``."""
        parts = torch.stack([logits, top_tokens(maps)], dim=1)
        return ((parts - self.means) / self.stds).sum(1)

    def _interpolated(self, latents: Tensor) -> Tensor:
        """Tokens ``(B, C, h, w)`` by their natural scales on the finer grid, ``(B, C, H, W)``."""
        latents = latents * self.token_scales.view(1, -1, 1, 1)
        latents = latents.contiguous(memory_format=torch.channels_last)
        if self.upscale == 1:
            return latents
        return functional.interpolate(latents, self.map_grid, mode="bilinear", align_corners=False)

    def _logits(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """The classification head's logits ``(B,)`` for tokens ``(B, C, H, W)`` and maps ``(B, 1, H, W)``."""
        # In training it teaches the segmentation head nothing: an image's label doesn't say where to look.
        known = maps.detach() if self.training else maps
        if not self.classifies:
            return top_tokens(known)
        found = self.after(self.of_tokens(tokens) + self.of_map(known))
        pooled = [each for part in (found, known) for each in (part.amax((2, 3)), part.mean((2, 3)))]
        logits: Tensor = self.classify(torch.cat(pooled, dim=1))[:, 0]
        return logits

    def last_layer_input(self, latents: Tensor) -> LastLayerInput:
        """What the map's last layer reads of tokens ``(B, C, h, w)``: its means over the finer grid."""
        hidden = self.hidden(self.adaptor(self._interpolated(latents)))
        return LastLayerInput(functional.avg_pool2d(hidden, self.upscale), torch.zeros_like(latents[:, :1]))

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """The last layer's weights ``(D, 1, 1)`` and bias ``()``, which it doesn't have: 0."""
        return self.out.weight[0], torch.zeros_like(self.out.weight[0, 0, 0, 0])

    def score_count(self, positions: int) -> int:
        """How many of a map's ``positions`` are averaged to a score, where only the last layer learns."""
        return min(TOP_TOKENS, positions)

    @torch.no_grad()
    def calibrate(self, latents: ImageSource) -> None:
        """Standardise on tokens ``(N, C, h, w)`` of normal images that it didn't train on.

        A score of 0 is higher than those of 95 % of them, and a map's value of 0 than the highest values of
        the maps of 95 %. The units are the standard deviations of both.
        """
        training = self.training
        self.eval()
        found = [self._heads(part.float()) for part in latents.split(CALIBRATED_AT_ONCE)]
        logits, maps = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
        for number, values in enumerate((logits, top_tokens(maps))):
            self.means[number] = values.mean()
            self.stds[number] = values.std(correction=0).clamp_min(1e-6)
        for number, values in ((SCORE, self._joined(logits, maps)), (MAP, maps.flatten(1).amax(1))):
            self.location[number], self.scale[number] = location_and_scale(values)
        self.train(training)


def supersimple_losses(detection: Detection, batch: Batch) -> dict[str, Tensor]:
    """The losses of the map, truncated and focal, and of the score, focal.

    Images whose mask is not known teach the score alone.
    """
    maps, masks = detection.map[batch.marked], batch.masks[batch.marked]
    wrong = functional.relu(MARGIN - torch.where(masks > 0, maps, -maps))
    inside, outside = masks.sum().clamp_min(1), (1 - masks).sum().clamp_min(1)
    return {
        "truncated": (wrong * masks).sum() / inside + (wrong * (1 - masks)).sum() / outside,
        "focal": focal_loss(maps, masks),
        "score": focal_loss(detection.score, batch.labels),
    }


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """The mean cross entropy of ``logits`` with ``truth``, 0 or 1, the more of it the more wrong they are."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    missed = (logits.sigmoid() - truth).abs()
    return (missed**FOCUS * entropy).mean()
