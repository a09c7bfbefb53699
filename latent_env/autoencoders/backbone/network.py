"""Features of a frozen pretrained vision network: chosen hidden states, resized to one grid and joined."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from latent_common.errors import UserError, first_line
from latent_env.autoencoders.backbone.lean_network import lean_network
from latent_env.autoencoders.backbone.tiles import Tiles

AUTOENCODER = "autoencoder"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of colours, as most networks expect them."""

UNIMPORTANT = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Keys of a network's description that don't change its features."""

CHOSEN_STRIDES = (8, 16)
"""By default, of convolutional networks the last maps at these strides: deep enough for parts of objects, and
fine enough for their position."""

CHOSEN_DEPTHS = (0.5, 0.75)
"""By default, of transformers the states after these shares of all layers: the last lose the position."""


class Backbone(nn.Module):
    """Images ``(B, C, size, size)`` in [0, 1] to features ``(B, F, grid, grid)``.

    Maps of convolutional networks are averaged over 3×3 neighbours; of transformers the patch tokens are
    used, not class and register tokens. Every chosen state is normalised to unit length and resized to one
    grid, and all are joined. Larger images than it sees at once are seen in tiles. Nothing in it ever learns.

    :param description: the network's ``config.json`` of Hugging Face.
    :param layers: which hidden states (0 is the embedding); None chooses.
    :param grid: tokens a side, of a tile if there are tiles; None is the finest of the chosen states.
    :param colours: mean and standard deviation that the network expects of red, green and blue.
    :param group: the group of keys that chose it, for errors: ``autoencoder`` or ``detector``.
    :param tile: pixels a side of what it sees at once; None is the whole image.
    """

    means: Tensor
    deviations: Tensor

    def __init__(
        self,
        network: nn.Module,
        description: Mapping[str, Any],
        size: int,
        layers: Sequence[int] | None = None,
        grid: int | None = None,
        colours: Sequence[Sequence[float]] = IMAGENET,
        group: str = AUTOENCODER,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.group, self.tile = group, tile
        # Convolutions are twice as fast so on a CPU; the type stubs of PyTorch lack this form of `to`.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = network.eval().requires_grad_(False)
        self.description, self.size = dict(description), size
        self.seen = tile or size
        """Pixels a side of what the network sees at once."""
        mean, deviation = colours
        self.colours = (tuple(mean), tuple(deviation))
        self.register_buffer("means", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviations", torch.tensor(deviation).view(1, 3, 1, 1), persistent=False)
        with torch.inference_mode():
            states = self._states(self.network, torch.zeros(1, 3, self.seen, self.seen))
        found = {number: self._map(state) for number, state in enumerate(states)}
        maps = {number: state for number, state in found.items() if state is not None}
        if layers is None:
            layers = _choice(maps, self.seen)
        missing = [layer for layer in layers if layer not in maps]
        if missing or not layers:
            usable = ", ".join(
                f"{layer} ({m.shape[1]}×{m.shape[2]}×{m.shape[3]})" for layer, m in maps.items()
            )
            raise UserError(
                f"{group}.layers={list(layers)}: this backbone has no usable map there; at {self.seen} "
                f"pixels it has {usable or 'none at all'}"
            )
        self.layers = tuple(layers)
        self.seen_grid = grid or max(maps[layer].shape[2] for layer in self.layers)
        """Tokens a side of what the network sees at once."""
        self.tiles = Tiles(size, tile, self.seen_grid, group) if tile else None
        self.grid = self.tiles.whole_grid if self.tiles else self.seen_grid
        self.features = sum(maps[layer].shape[1] for layer in self.layers)
        self._lean: list[nn.Module] = []  # in a list, so that its weights aren't stored too

    def digest(self) -> str:
        """A digest of everything that the features depend on."""
        facts = {key: value for key, value in self.description.items() if key not in UNIMPORTANT}
        digest = hashlib.sha256(json.dumps([facts, self.colours], sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002
        """Stay in evaluation mode: batch statistics would make an image's features depend on other images."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(B, F, grid, grid)`` of images ``(B, C, size, size)``, grey or in colour."""
        if self.tiles is None:
            return self._features(images)
        return self.tiles.join(self._features(self.tiles.cut(images)))

    def _features(self, images: Tensor) -> Tensor:
        """Features of what the network sees at once."""
        colours = images.expand(-1, 3, -1, -1)
        states = self._states(self._network(), (colours - self.means) / self.deviations)
        chosen = []
        for layer in self.layers:
            state = self._map(states[layer])
            assert state is not None  # layers were chosen among those that are maps
            state = functional.normalize(state, dim=1)
            if state.shape[2] > self.seen_grid:
                state = functional.adaptive_avg_pool2d(state, self.seen_grid)
            elif state.shape[2] < self.seen_grid:
                state = functional.interpolate(state, self.seen_grid, mode="bilinear")
            chosen.append(state)
        return torch.cat(chosen, dim=1)

    def use_whole_network(self) -> Backbone:
        """Compute with the network as it was trained from now on, which is slower; returns the backbone."""
        self._lean[:] = [self.network]
        return self

    def _network(self) -> nn.Module:
        """The network that features are computed with, made for the first of them: it needs the weights."""
        if not self._lean:
            if torch.compiler.is_compiling():  # nothing can be made of weights that are only traced
                return self.network
            self._lean.append(lean_network(self.network, self.layers, self.seen, self._states))
        return self._lean[0]

    def _apply(self, *args: Any, **kwargs: Any) -> Backbone:
        """Move the weights elsewhere, or to another type."""
        self._lean.clear()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Take other weights, which PyTorch asks of every part of a module that is loaded."""
        self._lean.clear()
        super()._load_from_state_dict(*args, **kwargs)

    def _states(self, network: nn.Module, images: Tensor) -> Sequence[Tensor]:
        """All hidden states, as a network returns them."""
        try:
            states = network(pixel_values=images, output_hidden_states=True).hidden_states
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.group}.backbone: a {self.description.get('model_type')} network doesn't turn images "
                f"of {self.seen} pixels into hidden states ({first_line(error)}): choose a vision backbone"
            ) from error
        return tuple(states or ())

    def _map(self, state: Tensor) -> Tensor | None:
        """A hidden state as a square map ``(B, c, h, h)`` of at least 2 × 2; None if it isn't one."""
        if state.ndim == 3:
            found = self._from_tokens(state)
        elif state.ndim == 4:
            found = functional.avg_pool2d(state, 3, 1, 1, count_include_pad=False)
        else:
            return None
        return found if found is not None and found.shape[2] == found.shape[3] > 1 else None

    def _from_tokens(self, tokens: Tensor) -> Tensor | None:
        """Tokens ``(B, T, c)`` as a map ``(B, c, h, h)`` of the last ones, the patches; None if none fits."""
        patch = self.description.get("patch_size")
        if isinstance(patch, Sequence):
            patch = patch[0]
        extra = 2 + int(self.description.get("num_register_tokens") or 0)
        sides = [math.isqrt(tokens.shape[1])]
        if patch:
            sides.insert(0, self.seen // int(patch))
        for side in sides:
            if side and 0 <= tokens.shape[1] - side * side <= extra:
                patches = tokens[:, tokens.shape[1] - side * side :]
                return patches.transpose(1, 2).unflatten(2, (side, side))
        return None


def _choice(maps: Mapping[int, Tensor], size: int) -> list[int]:
    """The default choice of hidden states."""
    last_of_side = {m.shape[2]: number for number, m in maps.items()}
    chosen = []
    for stride in CHOSEN_STRIDES:
        rounded = math.ceil(size / stride), size // stride  # networks halve odd sides either way
        chosen += [last_of_side[side] for side in rounded if side in last_of_side][:1]
    sides = {m.shape[2] for m in maps.values()}
    if len(sides) <= 1 or not chosen:  # a transformer keeps its grid from the first layer to the last
        last = max(maps, default=0)
        chosen = sorted({round(share * last) for share in CHOSEN_DEPTHS} & set(maps))
    return chosen
