"""What train_ae.py prints."""

from __future__ import annotations

from stages.autoencoder.base import TrainedAutoencoder


def summary(trained: TrainedAutoencoder) -> str:
    """How good an autoencoder is, in a few lines, and where its pictures are."""
    metrics = trained.run.metrics
    lines = [
        f"autoencoder: {metrics['valid_psnr']:.1f} dB, SSIM {metrics['valid_ssim']:.2f} on normal validation "
        f"images, latent {'x'.join(map(str, trained.model.latent_shape))}"
    ]
    # These three are measured of memory autoencoders alone.
    if "valid_image_AUROC" in metrics:
        lines.append(f"validation:  AUROC {metrics['valid_image_AUROC']:.4f} of the reconstruction error")
    if "memory_items" in metrics:
        items, dead = metrics["memory_items"], metrics["memory_dead"]
        lines.append(
            f"memory:      {items - dead:.0f} of {items:.0f} prototypes ever matter, {dead:.0f} are dead"
        )
    if "sample_frechet" in metrics:
        lines.append(
            f"samples:     Fréchet distance {metrics['sample_frechet']:.3f} (real images "
            f"{metrics['sample_frechet_real']:.3f}), precision {metrics['sample_precision']:.2f}, recall "
            f"{metrics['sample_recall']:.2f}, {metrics['sample_copies']:.0%} as close as a copy"
        )
    return "\n".join([*lines, f"pictures:    {trained.run.path / 'pictures'}"])
