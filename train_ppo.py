"""All stages: train an agent to augment, retrain the detector, and compare before with after.

With env=latent_denoise instead: train an agent to generate images from noise, and measure how good they are.
"""

from __future__ import annotations

from omegaconf import DictConfig

import stages.cli.early  # noqa: F401 - before what takes seconds to load
from conf.schema.runs import AgentRun
from stages.cli.launch import run_script
from stages.context import start
from stages.experiment import plan_experiment
from stages.plugins import import_plugins
from stages.training_data import load_training_data


def main(cfg: DictConfig) -> None:
    """Train what is missing, and print what it was worth."""
    config, context = start(cfg, AgentRun)
    import_plugins(config.plugins)
    data = load_training_data(config, context)
    # The plan builds everything once, untrained: mistakes show before hours are spent.
    experiment = plan_experiment(config.env, config, context, data)
    experiment.perform()
    print(experiment.summary())


if __name__ == "__main__":
    run_script(main, "train_ppo", __doc__)
