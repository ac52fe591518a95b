"""What the modules that train a denoiser share: its construction, and steps that they bind as their own methods."""

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.log import log_rarely
from zoo.diffusion.consistency_model import ImageConsistency
from zoo.diffusion.losses import min_snr_weight
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import affine, random_amounts

LONG = 5_000  # steps; a shorter run may not make up for the minute that compiling takes (docs/benchmarks.md)

Batch = Tensor | Sequence[Tensor]  # images, or images and labels


def denoiser(module: L.LightningModule, **given: Any) -> ImageDiffusion:
    """The model built from a module's options and `given`, with a compiled network if the option `compile` is true.

    Raises:
        UserError: naming an option of the optimizer, of the loss or of the model that has no meaning.
    """
    options = module.hparams
    gamma = options.get("min_snr_gamma")
    if gamma is not None and not gamma > 0:
        raise UserError(f"model.min_snr_gamma must be positive, got {gamma}")
    told = options["augmentation_labels"]
    given["augmentation_labels"] = options["augmentation"] > 0 if told is None else told
    model: ImageDiffusion = construct(module, "image-diffusion", **given)
    if options["compile"]:
        model.network.compile()
    return model


def compile_if_long(module: L.LightningModule) -> None:
    """As `on_fit_start`: compiles the network of a long run, unless the option `compile` is true or false."""
    if module.hparams["compile"] is not None:
        return
    found = shutil.which(os.environ.get("CXX", "c++")) if module.device.type == "cpu" else find_spec("triton")
    if found and module.trainer.estimated_stepping_batches >= LONG:
        module.model.network.compile()  # type: ignore[union-attr]


# steps --------------------------------------------------------------------------------------------------------------


def training_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> Tensor:
    """Logs and returns the mean loss of augmented images at random times, with min-SNR weights if there is a gamma."""
    images, labels = images_and_labels(module, batch)
    model: ImageDiffusion = module.model  # type: ignore[assignment]
    images, amounts = augmented(images, module.hparams)
    t = uniform_times(model.process, images)
    loss = model.loss(images, t, torch.randn_like(images), labels, amounts)
    gamma = module.hparams["min_snr_gamma"]
    if gamma is not None:
        loss = min_snr_weight(model.process.snr(t), model.parameterization, gamma) * loss
    loss = loss.mean()
    log_rarely(module, "train/loss", loss)
    return loss


def validation_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
    """Logs the mean loss at fixed noise and fixed times, spread over 1 ... T, so that its curve is smooth."""
    images, labels = images_and_labels(module, batch)
    model: ImageDiffusion = module.model  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(batch_idx)
    t = 1 + (torch.arange(len(images)) * 7919 + batch_idx) % model.process.num_timesteps
    noise = torch.randn(images.shape, generator=generator)
    loss = model.loss(images, t.to(images.device), noise.to(images.device), labels)
    module.log("val/loss", loss.mean(), prog_bar=True, batch_size=len(images), sync_dist=True)


def test_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
    """Logs the variational bound in bits per dimension."""
    images, labels = images_and_labels(module, batch)
    model: ImageDiffusion = module.model  # type: ignore[assignment]
    levels = module.hparams["levels"]
    if levels < 2:
        raise UserError(f"model.levels must be at least 2 for a bound in bits, got {levels}: the data fills it in")
    bound = model.bound(images, levels, labels=labels, generator=torch.Generator().manual_seed(batch_idx))
    bits = bits_per_dim(-bound.total, images[0].numel())
    module.log("test/bits_per_dim", bits.mean(), batch_size=len(images), sync_dist=True)


def draw(model: ImageDiffusion | ImageConsistency, batch: tuple[Tensor, Tensor], **options: Any) -> Tensor:
    """Latents x_T (B, C, H, W) and their indices (B,) -> images, by default of all classes in turn.

    Args:
        options: of the model's `sample`.
    """
    latents, index = batch
    options = {"labels": model.labels_in_turn(index)} | options
    generator = torch.Generator().manual_seed(int(index[0]))
    return model.sample(len(latents), noise=latents, generator=generator, **options)


# parts of steps -----------------------------------------------------------------------------------------------------


def images_and_labels(module: L.LightningModule, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The images of a batch, and the labels if it has any and the network takes them."""
    images, *labels = [batch] if isinstance(batch, Tensor) else batch
    return images, labels[0] if labels and module.model.labels else None  # type: ignore[union-attr]


def augmented(images: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The images, rotated, scaled, sheared and shifted at random if the options ask for it.

    Then the amounts by which they were moved, or None for a network that is not to be told.
    """
    if not options["augmentation"] > 0:
        return images, None
    amounts = random_amounts(images, options["augmentation_probability"])
    told = options.get("augmentation_labels") is not False
    return affine(images, amounts, options["augmentation"]), amounts if told else None


def uniform_times(process: NoiseProcess, images: Tensor) -> Tensor:
    """Random times (B,), uniform in 1 ... T."""
    return torch.randint(1, process.num_timesteps + 1, (len(images),), device=images.device)
