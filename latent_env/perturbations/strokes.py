"""Local perturbations of a generator's latent: stains, scratches, rough or dull spots."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from latent_common.errors import UserError
from latent_common.image_source import evenly_spaced
from latent_env.autoencoders.frozen import as_float
from latent_env.perturbations.base import Coordinate
from latent_env.random_streams import Streams

REACH = 3.0
"""By default no token moves farther than so many 95 % quantiles of the distance between normal tokens."""

BRIGHTNESS, COLOUR, TEXTURE = 0.5, 0.15, 5.0
"""At full strength pixels become brighter by so much (of intensities from 0 to 1), the difference between
colours grows by so much, and the logarithm of the pixels' variance: as far as normal tokens tell."""

LEAST_RADIUS, MOST_STRETCH = 0.5, 8.0
"""The smallest radius, in tokens, and how many times as long as wide a stroke is at most."""

MOST_IMAGES = 256
"""Directions are found from at most so many images."""

EDGE, END = 0.1, 0.01
"""Pixels change fully where a stroke has at least the first share of its strength, not below the second."""


class Stroke(NamedTuple):
    """What one step draws in N worlds."""

    delta: Tensor
    """``(N, C, h, w)``: changes of the latents."""
    matte: Tensor
    """``(N, 1, H, W)`` in [0, 1]: where pixels may change."""


class Strokes:
    """Soft strokes, round or long, that change colour, brightness or texture.

    A constant change of a generator's tokens mostly decodes to a pattern that repeats with every token. Along
    a few directions it doesn't: along those in which tokens vary with the mean colour of their pixels, and
    with how much these differ from each other. ``directions (D, C)`` are these: brightness, for coloured
    images red against blue and green against both, and texture. Each is as long as a stroke of full strength.

    The numbers of an action are ``[radius, strength, roughness, turn, stretch, direction…]``:

    - ``radius``: 0.5 tokens to a quarter of the grid;
    - ``strength``: from 0 to 1;
    - ``roughness``: -1 moves all tokens in one direction, 1 each in a random direction of its own;
    - ``turn``: which way a long stroke points, by -180 to 180 degrees from upright;
    - ``stretch``: from round to eight times as long as wide;
    - ``direction…``: one coefficient a direction.
    """

    SHAPE = 5
    """How many numbers come before the direction."""

    def __init__(self, images: Tensor, latents: Tensor, max_delta: float) -> None:
        """Find the directions.

        :param max_delta: no token moves farther.
        :param images: ``(S, C, H, W)`` uint8, normal.
        :param latents: ``(S, *latent_shape)`` of these.
        """
        if latents.ndim != 4:
            raise UserError("perturbation=local_edit needs a spatial latent, and this autoencoder's is flat")
        self.size = images.shape[-1]
        self.channels, self.rows = latents.shape[1:3]
        some = evenly_spaced(images, MOST_IMAGES)
        found = visible_directions(as_float(some, latents), evenly_spaced(latents, MOST_IMAGES))
        self.directions = found * (max_delta / found.norm(dim=1, keepdim=True).clamp_min(1e-6)).clamp_max(1)
        self.action_size = self.SHAPE + len(self.directions)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """What each number stands for."""
        colours = (
            Coordinate("brightness", "darker", "brighter"),
            Coordinate("red against blue", "bluer", "redder"),
            Coordinate("green", "less green", "greener"),
        )
        return (
            Coordinate("radius", "half a token", "a quarter of the grid"),
            Coordinate("strength", "none", "full"),
            Coordinate("roughness", "all tokens alike", "each token its own way"),
            Coordinate("turn", "-180°", "180°"),
            Coordinate("stretch", "round, or half as large", "long, or twice as large"),
            *colours[: len(self.directions) - 1],
            Coordinate("texture", "smoother", "rougher"),
        )

    def drawn(self, place: Tensor, numbers: Tensor, streams: Streams) -> Stroke:
        """The strokes that ``numbers (N, action_size)`` draw around ``place (N, 2)``, in pixels."""
        within = (numbers[:, : self.SHAPE] + 1) / 2
        widest = max(self.rows / 4, LEAST_RADIUS)
        radius = LEAST_RADIUS * (widest / LEAST_RADIUS) ** within[:, 0]
        stretch, turn = MOST_STRETCH ** within[:, 4], numbers[:, 3] * torch.pi
        side = self.size / self.rows
        centre = (place + 0.5) / side - 0.5
        noise = streams.normal(self.channels, self.rows, self.rows)
        direction = (unit(numbers[:, self.SHAPE :]) @ self.directions)[:, :, None, None]
        length, rough = direction.norm(dim=1, keepdim=True), within[:, 2, None, None, None]
        mixed = length * unit((1 - rough) * unit(direction) + rough * unit(noise))
        delta = within[:, 1, None, None, None] * self._profile(centre, radius, stretch, turn, 1) * mixed
        # A decoder draws a token into its neighbours too, so pixels half a token around may change.
        seen = self._profile(centre, radius + 0.5, stretch, turn, round(side))
        return Stroke(delta, ((seen - END) / (EDGE - END)).clamp(0, 1))

    def _profile(self, centre: Tensor, radius: Tensor, stretch: Tensor, turn: Tensor, finer: int) -> Tensor:
        """A bell ``(N, 1, n, n)`` on a grid that is ``finer`` than that of tokens, 1 at its centre."""
        count = self.rows * finer
        place = (torch.arange(count, device=centre.device, dtype=centre.dtype) + 0.5) / finer - 0.5
        down = place[None, :, None] - centre[:, 0, None, None]
        right = place[None, None, :] - centre[:, 1, None, None]
        cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
        along, across = cosine * down + sine * right, cosine * right - sine * down
        length = (radius * stretch.sqrt())[:, None, None]
        width = (radius / stretch.sqrt()).clamp_min(LEAST_RADIUS / 2)[:, None, None]
        squared = (along / length).square() + (across / width).square()
        return torch.exp(-squared / 2)[:, None]


def visible_directions(images: Tensor, latents: Tensor) -> Tensor:
    """In which directions ``latents (S, C, h, w)`` vary with what is visible in ``images (S, c, H, W)``.

    :returns: ``(D, C)`` for brightness, two contrasts of colours if there are three, and texture; each is as
        long as it takes for the usual change of full strength, by how the latents of normal images vary.
    """
    side = images.shape[-1] // latents.shape[-1]
    colours = functional.avg_pool2d(images, side)
    if images.shape[1] == 3:
        red, green, blue = colours.unbind(1)
        colours = torch.stack([(red + green + blue) / 3, red - blue, green - (red + blue) / 2], 1)
    brightness = images.mean(1, keepdim=True)
    mean, squares = (functional.avg_pool2d(values, side) for values in (brightness, brightness.square()))
    texture = (squares - mean.square()).clamp_min(1e-6).log()
    facts, centred = torch.cat([colours, texture], 1), latents - latents.mean(0)
    facts = facts - facts.mean(0)
    directions = unit(torch.einsum("sdhw,schw->dc", facts, centred))
    along = torch.einsum("dc,schw->sdhw", directions, centred)
    slopes = (along * facts).sum((0, 2, 3)) / along.square().sum((0, 2, 3)).clamp_min(1e-12)
    wanted = [BRIGHTNESS, *[COLOUR] * (colours.shape[1] - 1), TEXTURE]
    return directions * (slopes.new_tensor(wanted) / slopes.clamp_min(1e-6))[:, None]


def unit(vectors: Tensor) -> Tensor:
    """``vectors``, scaled to unit length along dimension 1; zero stays zero."""
    return vectors / (vectors.square().sum(1, keepdim=True) + 1e-12).sqrt()
