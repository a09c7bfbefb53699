"""Stage 1: train an autoencoder on normal images and freeze it."""

from __future__ import annotations

from omegaconf import DictConfig

import stages.cli.early  # noqa: F401 - before what takes seconds to load
from conf.schema.runs import AutoencoderRun
from stages.autoencoder.plan import plan_autoencoder
from stages.autoencoder.summary import summary
from stages.cli.launch import run_script
from stages.context import start
from stages.training_data import load_training_data


def main(cfg: DictConfig) -> None:
    """Train, or find, the autoencoder and say how good it is."""
    config, context = start(cfg, AutoencoderRun)
    data = load_training_data(config, context)
    trained = plan_autoencoder(config.autoencoder, context, data).train()
    print(summary(trained))
    print(f"look further: tensorboard --logdir {config.runs}")


if __name__ == "__main__":
    run_script(main, "train_ae", __doc__)
