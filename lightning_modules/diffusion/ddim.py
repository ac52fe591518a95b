"""Denoising diffusion implicit models: fast, deterministic sampling from a trained denoiser."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

import checkpoints
from lightning_modules.diffusion.common import draw
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.samplers import ddim, ddim_invert
from zoo.diffusion.schedules import times_for
from zoo.errors import UserError


class DDIM(L.LightningModule):
    """Samples a trained denoiser on a sub-sequence of its steps; trains nothing.

    `predict` turns latents into images. `test` encodes images to latents by the inverse steps, decodes them again and
    reports the mean squared error per pixel of the round trip.

    Args:
        denoiser: a MODEL: a shipped name or a model folder.
        steps: network evaluations a sample, 1 ... T.
        eta: from 0, deterministic, to 1, as stochastic as DDPM.
        spacing: "trailing", "leading", "linspace", "quadratic" or "karras" sub-sequence.
        labels: classes to draw in turn, for a class-conditional denoiser: numbers, or one list of numbers each for a
            denoiser of several label columns. The null label of a column is its number of classes.
        guidance_scale: s of classifier-free guidance; 1 is conditional, 0 unconditional.

    References:
        Song et al. 2020, arXiv:2010.02502; 000_507b39bbaa34acda.txt, section 14.
    """

    paper = "Song et al. 2020, arXiv:2010.02502"

    def __init__(
        self,
        denoiser: str = "ddpm-digits",
        steps: int = 50,
        eta: float = 0.0,
        spacing: str = "trailing",
        labels: list[int] | list[list[int]] | None = None,
        guidance_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._labels = _rows(labels)
        model: Any = checkpoints.load(denoiser)
        if not hasattr(model, "denoiser"):
            raise UserError(f"model.denoiser must be a diffusion model, got {denoiser!r}")
        self.model: ImageDiffusion = model
        self.image_shape = model.image_shape
        self.times = times_for(model.process, steps, spacing)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images (B, C, H, W) in [-1, 1]."""
        index, labels = batch[1], self._labels
        options = {name: self.hparams[name] for name in ("steps", "eta", "spacing", "guidance_scale")}
        options["sampler"] = "ddim"
        return draw(self.model, batch, labels=None if labels is None else labels[index.cpu() % len(labels)], **options)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        denoise = self.model.denoiser(labels if self.model.labels else None, clip=False)
        latents = ddim_invert(denoise, self.model.process, images, self.times)
        decoded = ddim(denoise, self.model.process, latents, self.times)
        error = (decoded - images).square().mean()
        self.log("test/round_trip_mse", error, batch_size=len(images), sync_dist=True)


def _rows(labels: list[int] | list[list[int]] | None) -> Tensor | None:
    """Labels as a tensor, (N,) or (N, columns)."""
    if not labels:
        return None
    try:
        return torch.tensor(labels)
    except (TypeError, ValueError):
        raise UserError(f"model.labels must be numbers, or lists of equally many numbers, got {labels}") from None
