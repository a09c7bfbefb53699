"""Stage 1: train an autoencoder on normal images and freeze it."""

from __future__ import annotations

from omegaconf import DictConfig

from conf.schema.runs import AutoencoderRun
from stages.autoencoder.stage import autoencoder_stage, of_form
from stages.cli.launch import run_script
from stages.context import start_job


def main(cfg: DictConfig) -> None:
    """Train, or find, the autoencoder and say how good it is."""
    frozen, run = autoencoder_stage(start_job(cfg, AutoencoderRun))
    print(
        f"autoencoder: {run.metrics['valid_psnr']:.1f} dB, SSIM {run.metrics['valid_ssim']:.2f} on normal "
        f"validation images, latent {'x'.join(map(str, frozen.latent_shape))}\n"
        f"{of_form(run.metrics)}"
        f"pictures:    {run.path / 'pictures'}\n"
        f"look further: tensorboard --logdir {cfg.runs}"
    )


if __name__ == "__main__":
    run_script(main, "train_ae", __doc__)
