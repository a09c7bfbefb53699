"""The parts of a command as one object, for what still asks for that."""

from __future__ import annotations

from typing import TypeVar

from conf.schema.runs import AutoencoderRun
from stages.context import Context, Job
from stages.training_data import TrainingData

C = TypeVar("C", bound=AutoencoderRun)


def job_of(config: C, context: Context, data: TrainingData) -> Job[C]:
    """``context`` and ``data`` as a :class:`Job`; ``config`` says the rest."""
    job = Job(config, context.device)
    parts = {
        "dataset": data.dataset,
        "train_images": data.images,
        "augmentation": data.augmentation,
        "texture_images": data.textures,
        "textures_digest": data.textures_digest,
    }
    job.__dict__.update(parts)
    return job
