"""Stage 2: train a detector on normal images and synthetic anomalies."""

from __future__ import annotations

from omegaconf import DictConfig

import stages.cli.early  # noqa: F401 - before what takes seconds to load
from conf.schema.runs import DetectorRun
from stages.cli.launch import run_script
from stages.context import start
from stages.detector.plan import plan_detector
from stages.detector.trained import export_world
from stages.training_data import load_training_data


def main(cfg: DictConfig) -> None:
    """Train, or find, the detector and say how good it is."""
    config, context = start(cfg, DetectorRun)
    data = load_training_data(config, context)
    # The plan builds everything once, untrained: mistakes show before hours are spent.
    detector = plan_detector(config, context, data).train()
    detector.evaluate()
    print(detector.summary())
    if config.export:
        export_world(detector.run, config.export)
    print(f"look further: tensorboard --logdir {config.runs}")


if __name__ == "__main__":
    run_script(main, "train_detector", __doc__)
