"""The keys that choose a backbone, and what features of one recommend to other groups."""

from __future__ import annotations

from dataclasses import dataclass

from conf.schema.fields import BatchSize, Filled, Finite, Positive, Share


@dataclass
class BackboneChoice:
    """A pretrained vision network, and which of its features are used."""

    backbone: str
    layers: list[int] | None
    grid: Positive[int | None]
    components: float
    tile: Positive[int | None]


@dataclass
class FeatureDefaults:
    """Values for keys of other groups that are null, where detectors read frozen features."""

    detector_steps: Positive[Filled[int]]
    detector_batch_size: BatchSize[int]
    detector_learning_rate: Positive[float]
    baselines: list[str]
    labelled_step_multiplier: Positive[float]
    shares: Share[list[float]]
    few_share: Share[float]
    sample_step_multiplier: Positive[float]
    realism: Finite[float]
