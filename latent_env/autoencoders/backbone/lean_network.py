"""Networks that compute only the hidden states that are asked for, in few operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

States = Callable[[nn.Module, Tensor], Sequence[Tensor]]
"""All hidden states of a network for images."""

CLOSE = 1e-4
"""States that differ by at most this share of their length are the same but for rounding."""


def lean_network(network: nn.Module, layers: Sequence[int], size: int, states_of: States) -> nn.Module:
    """A copy of ``network`` whose hidden states at ``layers`` are the same, in less time.

    Batch normalisation is folded into convolutions, zeros that are put around a map before a convolution are
    left to the convolution, and what comes after the last layer is cut off. The network itself comes back
    where its states would change, or where a part of them can't be had alone.

    :param size: the side of the images in pixels.
    """
    parameter = next(network.parameters())
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    probe = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    exactly = torch.autocast(parameter.device.type, enabled=False)  # rounding would hide what is compared
    with torch.inference_mode(False), torch.no_grad(), exactly:
        wanted = states_of(network, probe)
        try:
            lean = deepcopy(network, shared)  # what stays as it is takes no more memory
            _simplify_convolutions(lean)
            _cut(lean, max(layers), len(wanted))
            lean.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found = states_of(lean, probe)
            same = all(_close(found[layer], wanted[layer]) for layer in layers)
        except Exception:  # a network of another kind may fail in any way without parts of it
            return network
    return lean if same else network


def _close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).norm() <= CLOSE * wanted.norm())


def _simplify_convolutions(network: nn.Module) -> None:
    """Fold every ``normalization`` into the ``convolution`` before it, which then adds its own zeros.

    These are the names that transformers gives them in blocks of MobileNets and ResNets.
    """
    for block in network.modules():
        convolution, batch_norm = (getattr(block, name, None) for name in ("convolution", "normalization"))
        if not isinstance(convolution, nn.Conv2d):
            continue
        config: Any = getattr(block, "config", None)
        if getattr(config, "tf_padding", False) and set(convolution.stride) == {1}:
            # At this stride TensorFlow's zeros are as many on every side, as a convolution adds them.
            block.config = own = copy(config)
            own.tf_padding = False
            convolution.padding = tuple(side // 2 for side in convolution.kernel_size)
        if isinstance(batch_norm, nn.BatchNorm2d):
            block.convolution = fuse_conv_bn_eval(convolution, batch_norm)
            block.normalization = nn.Identity()
            if isinstance(activation := getattr(block, "activation", None), nn.ReLU | nn.ReLU6):
                activation.inplace = True  # nothing else reads what a convolution returns


def _cut(network: nn.Module, last: int, states: int) -> None:
    """Remove layers after hidden state ``last`` of so many ``states``; the first may be the embedding."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ModuleList) and len(child) in (states, states - 1):
                setattr(parent, name, child[: last + 1 - (states - len(child))])
