"""What the modules that train a denoiser share: its construction, its losses."""

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from torch import Tensor

from checkpoints import load_weights
from lightning_modules.trainer.optimizers import check_options
from zoo.diffusion.losses import min_snr_weight
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.nn.augment import random_affine

NAME = "image-diffusion"  # in the table of models
LONG = 5_000  # steps; a shorter run may not earn back the minute that compiling takes (docs/benchmarks.md)
# arguments of a module that are also those of its model
ARCHITECTURE = (
    "image_shape",
    "channels",
    "channel_multipliers",
    "blocks_per_level",
    "attention_levels",
    "patch_size",
    "dropout",
    "schedule",
    "num_timesteps",
    "parameterization",
)


def build(options: Mapping[str, Any], **conditioning: Any) -> tuple[ImageDiffusion, dict[str, Any]]:
    """The model of a module's options and of `conditioning` (classes, null label), and the plain arguments of it.

    Raises:
        UserError: naming an option of the optimizer, of `training_loss` or of the model that cannot be meant.
    """
    check_options(options)
    gamma = options.get("min_snr_gamma")
    if gamma is not None and not gamma > 0:
        raise UserError(f"model.min_snr_gamma must be positive, got {gamma}")
    arguments = {name: _plain(options[name]) for name in ARCHITECTURE}
    arguments |= {name: _plain(value) for name, value in conditioning.items()}
    model = ImageDiffusion(**arguments)
    if options["pretrained"] is not None:
        load_weights(model, options["pretrained"], NAME, arguments)
    if options["compile"]:
        model.network.compile()
    return model, arguments


def compile_if_long(module: L.LightningModule) -> None:
    """At the start of a fit whose option `compile` is left open: compiles the network of a run that earns it back."""
    if module.hparams["compile"] is not None:
        return
    found = shutil.which(os.environ.get("CXX", "c++")) if module.device.type == "cpu" else find_spec("triton")
    if found and module.trainer.estimated_stepping_batches >= LONG:
        module.model.network.compile()  # type: ignore[union-attr]


def moved(images: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The images, moved at random if `augmentation` says so."""
    if options["augmentation"] > 0:
        return random_affine(images, options["augmentation"], options["augmentation_probability"])
    return images


def uniform_times(process: NoiseProcess, images: Tensor) -> Tensor:
    """Random times (B,), uniform in 1 ... T."""
    return torch.randint(1, process.num_timesteps + 1, (len(images),), device=images.device)


def training_loss(model: ImageDiffusion, images: Tensor, labels: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Per-sample loss (B,) at random times, of randomly moved images if asked, weighted by min-SNR if asked."""
    images = moved(images, options)
    t = uniform_times(model.process, images)
    loss = model.loss(images, t, torch.randn_like(images), labels)
    if options["min_snr_gamma"] is not None:
        loss = min_snr_weight(model.process.snr(t), model.parameterization, options["min_snr_gamma"]) * loss
    return loss


def validation_loss(model: ImageDiffusion, images: Tensor, labels: Tensor | None, batch_idx: int) -> Tensor:
    """Per-sample loss (B,) at times spread over 1 ... T and noise that are the same in every validation."""
    generator = torch.Generator().manual_seed(batch_idx)
    t = 1 + (torch.arange(len(images)) * 7919 + batch_idx) % model.process.num_timesteps
    noise = torch.randn(images.shape, generator=generator)
    return model.loss(images, t.to(images.device), noise.to(images.device), labels)


def bound_bits(module: L.LightningModule, images: Tensor, labels: Tensor | None, batch_idx: int) -> Tensor:
    """The variational bound in bits per dimension, (B,)."""
    model: Any = module.model
    levels = module.trainer.datamodule.levels  # type: ignore[attr-defined]
    bound = model.bound(images, levels, labels=labels, generator=torch.Generator().manual_seed(batch_idx))
    return bits_per_dim(-bound.total, images[0].numel())


def log_rarely(module: L.LightningModule, name: str, value: Tensor) -> None:
    """Logs at each n-th step only, n the trainer's `log_every_n_steps`: a call costs as much as a small update."""
    if (module.trainer.global_step + 1) % module.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
        module.log(name, value, prog_bar=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
