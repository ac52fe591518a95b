"""What the modules that train a density by maximum likelihood share: its construction, its loss, its scores."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from checkpoints import load_weights
from lightning_modules.trainer.log import log_rarely
from zoo.errors import UserError
from zoo.flows.dequantise import dequantise
from zoo.flows.model import Flow
from zoo.metrics.likelihood import bits_per_dim

DRAWS = 32  # of the noise behind the importance estimate of a test image


def build(name: str, builder: Callable[..., Flow], options: Mapping[str, Any]) -> tuple[Flow, dict[str, Any]]:
    """The flow of a module's options, and the plain arguments of it.

    Args:
        name: in the table of models. builder: that of the name. options: the module's, by the names of the builder.

    Raises:
        UserError: if the options name no size, or classes that are not there.
    """
    arguments = {"shape": shape_of(options), "levels": options["levels"], "num_classes": 0}
    if options["class_conditional"]:
        if not isinstance(options["num_classes"], int) or not options["num_classes"]:
            raise UserError("model.class_conditional is true, but the data has no single column of classes")
        arguments["num_classes"] = options["num_classes"]
    names = [name for name in inspect.signature(builder).parameters if name in options]
    arguments = {name: options[name] for name in names} | arguments
    model = builder(**arguments)
    arguments["shape"] = list(arguments["shape"])
    if options["pretrained"] is not None:
        load_weights(model, options["pretrained"], name, arguments)
    if options["compile"]:
        model.bijection.compile()
    return model, arguments


def shape_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one x: (C, H, W) of images on grey levels, (D,) of points.

    Raises:
        UserError: if not exactly one of the two is given, or images without grey levels.
    """
    image_shape, num_features = options["image_shape"], options.get("num_features")
    if (image_shape is None) == (num_features is None):
        raise UserError("give a density either model.image_shape or model.num_features: the data fills in its own")
    if num_features is not None:
        return (num_features,)
    if options["levels"] < 2:
        raise UserError(f"model.levels must be at least 2 for images, got {options['levels']}: the data fills it in")
    return tuple(image_shape)


def prepare(module: L.LightningModule) -> None:
    """At the start of a fit: tells a density the mean and spread of its training points, or its pixels' histograms.

    A run that is resumed, or that goes on from a `pretrained` model, keeps those of its weights.
    """
    trainer: Any = module.trainer
    model: Any = module.model
    if trainer.ckpt_path is not None or module.hparams["pretrained"] is not None:
        return
    if model.levels:
        model.equalise(trainer.datamodule.images("train"))
    else:
        model.standardise(trainer.datamodule.mean, trainer.datamodule.std)


def training_step(module: L.LightningModule, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of -log p / D: of points, or of dequantised images; its noise is new in every step.

    For images this is the negative log-likelihood bound less the constant log L, in nats a dimension.
    """
    x, labels = batch
    model: Any = module.model
    if model.levels:
        x = dequantise(x, model.levels, torch.rand_like(x))
    loss = -model.log_prob(x, labels if model.num_classes else None).mean() / model.dims
    log_rarely(module, "train/loss", loss)
    return loss


def validation_step(module: L.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
    """Logs -log p: "val/loss" as in training, "val/nll_nats" in all, of images also "val/bits_per_dim", one draw."""
    x = batch[0]
    model: Any = module.model
    nats = log_likelihood(model, batch, 1, batch_idx)
    log = {"val/nll_nats": -nats.mean()}
    if model.levels:
        log["val/bits_per_dim"] = bits_per_dim(nats, model.dims).mean()
    module.log_dict(log, batch_size=len(x), sync_dist=True)
    loss = -(nats + model.dims * torch.tensor(max(1, model.levels)).log()).mean() / model.dims
    module.log("val/loss", loss, prog_bar=True, batch_size=len(x), sync_dist=True)


def test_step(module: L.LightningModule, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
    """Logs "test/nll_nats"; of images "test/bits_per_dim" with one draw, and with DRAWS the importance estimate."""
    model: Any = module.model
    nats = log_likelihood(model, batch, 1, batch_idx)
    log = {"test/nll_nats": -nats.mean()}
    if model.levels:
        log["test/bits_per_dim"] = bits_per_dim(nats, model.dims).mean()
        estimate = log_likelihood(model, batch, DRAWS, batch_idx)
        log[f"test/bits_per_dim_{DRAWS}_draws"] = bits_per_dim(estimate, model.dims).mean()
    module.log_dict(log, batch_size=len(batch[0]), sync_dist=True)


def log_likelihood(model: Flow, batch: tuple[Tensor, Tensor], draws: int, seed: int) -> Tensor:
    """(B,) nats: of points the log-density; of images the bound of `draws` draws, with noise that follows `seed`."""
    x, labels = batch
    condition = labels if model.num_classes else None
    if not model.levels:
        return model.log_prob(x, condition)
    generator = torch.Generator().manual_seed(seed)
    return model.log_likelihood(x, labels=condition, generator=generator, draws=draws)
