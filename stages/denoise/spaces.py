"""The space that images are generated in, and where its autoencoder is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema.autoencoders import AutoencoderConfig
from conf.schema.envs import DenoiseEnvConfig
from latent_common.errors import UserError
from latent_env.data import Dataset
from latent_env.denoise.spaces import PixelSpace, Space
from latent_env.denoise.world import autoencoder_digest
from latent_env.worlds.artifacts import load_autoencoder
from latent_env.worlds.store import BUILTIN, builtin_names
from stages.autoencoder.plan import plan_autoencoder
from stages.context import Context
from stages.training_data import TrainingData


@dataclass(frozen=True)
class StoredSpace:
    """A space, and the folder of its autoencoder; pixels have none."""

    space: Space
    digest: str
    folder: Path | None

    def settings(self) -> dict[str, Any]:
        """What tells this space from others."""
        return {"autoencoder": self.digest}


def pixel_space(dataset: Dataset, context: Context) -> StoredSpace:
    """The space of a data set's pixels."""
    return StoredSpace(PixelSpace(dataset.channels, dataset.size, context.device), "", None)


def make_space(
    env: DenoiseEnvConfig, autoencoder: AutoencoderConfig, context: Context, data: TrainingData
) -> StoredSpace:
    """The space of ``env``: pixels, a stored world's latents, or those of ``autoencoder``, trained now."""
    dataset = data.dataset
    if env.space == "pixel":
        return pixel_space(dataset, context)
    if env.artifacts is None:
        trained = plan_autoencoder(autoencoder, context, data).train()
        return StoredSpace(trained.model, autoencoder_digest(trained.run.path, env.space), trained.run.path)
    folder = BUILTIN / env.artifacts if env.artifacts in builtin_names() else Path(env.artifacts)
    if not (folder / "autoencoder.json").is_file():
        raise UserError(
            f"env.artifacts={env.artifacts} is neither a built-in world ({', '.join(builtin_names())}) nor a "
            "folder with an autoencoder: `python train_ae.py dataset=…` makes one below runs/"
        )
    frozen = load_autoencoder(folder).to(context.device)
    if (frozen.channels, frozen.size) != (dataset.channels, dataset.size):
        raise UserError(
            f"env.artifacts={env.artifacts} is for images of {frozen.channels}x{frozen.size}x{frozen.size}, "
            f"{dataset.name} has {dataset.channels}x{dataset.size}x{dataset.size}: choose another world, or "
            "leave env.artifacts out"
        )
    return StoredSpace(frozen, autoencoder_digest(folder, env.space), folder)
