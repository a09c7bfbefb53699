"""All stages: train an agent to augment, retrain the detector, and compare before with after.

With env=latent_denoise instead: train a critic, an agent that makes images of noise, and judge them.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from conf.schema.envs import DenoiseEnvConfig
from conf.schema.runs import AgentRun
from latent_env.worlds.store import copy_world
from stages.augmentation.stage import agent_stage, import_plugins
from stages.cli.launch import run_script
from stages.context import say, start_job
from stages.denoise.stage import denoise_main
from stages.job_of import autoencoder_stage


def main(cfg: DictConfig) -> None:
    """Make what is missing and print the before/after table."""
    job = start_job(cfg, AgentRun)
    import_plugins(job)
    if isinstance(job.config.env, DenoiseEnvConfig):
        denoise_main(job, autoencoder_stage)
        return
    run = agent_stage(job)
    if job.config.export:
        copy_world(run.path, Path(job.config.export))
        say(f"exported to {job.config.export}")
    report = (run.path / "report.md").read_text(encoding="utf-8")
    print(report.partition("\n\n")[2].partition("\n\n## ")[0])
    print(
        f"\npictures:    {run.path / 'pictures'}\n"
        f"samples:     {run.path / 'augmented.npz'}\n"
        f"environment: gym.make('LatentAug-v0', artifacts='{run.path}')\n"
        f"look further: tensorboard --logdir {cfg.runs}"
    )


if __name__ == "__main__":
    run_script(main, "train_ppo", __doc__)
