"""What modules that train a density by maximum likelihood share: class attributes of theirs are these functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.log import log_rarely
from zoo.errors import UserError
from zoo.flows.dequantise import dequantise
from zoo.flows.model import Flow
from zoo.metrics.likelihood import bits_per_dim

DRAWS = 32  # of the noise behind the importance estimate of a test image
ROWS = 50_000  # of a plain DataLoader, that its statistics are taken from

Batch = Tensor | Sequence[Tensor]  # x, (x,) or (x, labels)


def density(module: L.LightningModule, name: str) -> Any:
    """The flow of a module's options; see `construct`.

    Args:
        name: in the table of models.

    Raises:
        UserError: as `construct`, and if the options name no shape, or classes that the data does not have.
    """
    options = module.hparams
    model = construct(module, name, shape=_shape(options), num_classes=_num_classes(options))
    if options.get("compile"):
        model.bijection.compile()
    return model


def fit_statistics(module: L.LightningModule, stage: str) -> None:
    """A `setup` that gives a new density the mean and deviation of the training points, or their pixels' histograms.

    It runs before a checkpoint is restored and before callbacks search for a learning rate or a batch size. A density
    that has statistics keeps them: after a fit, from a checkpoint, from a `pretrained` model.
    """
    model: Flow = module.model  # type: ignore[assignment]
    if stage != "fit" or model.has_statistics:
        return
    data: Any = getattr(module.trainer, "datamodule", None)
    if model.levels:
        model.equalise(data.images("train") if hasattr(data, "images") else _training_rows(module))
    elif hasattr(data, "mean"):
        model.standardise(data.mean, data.std)
    else:
        points = _training_rows(module).double()
        model.standardise(points.mean(0), points.std(0))


def training_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> Tensor:
    """Mean of -log p(x) / D of points, or of images dequantised with new noise.

    For images this is the negative log-likelihood bound less the constant log L, in nats a dimension.
    """
    model: Flow = module.model  # type: ignore[assignment]
    x, labels = split(model, batch)
    if model.levels:
        x = dequantise(x, model.levels, torch.rand_like(x))
    loss = -model.log_prob(x, labels).mean() / model.dims
    log_rarely(module, "train/loss", loss)
    return loss


def validation_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
    """Logs -log p: "val/loss" as in training, "val/nll_nats" in all, of images also "val/bits_per_dim", one draw."""
    model: Flow = module.model  # type: ignore[assignment]
    nats = log_likelihood(model, batch, 1, batch_idx)
    log = {"val/nll_nats": -nats.mean()}
    if model.levels:
        log["val/bits_per_dim"] = bits_per_dim(nats, model.dims).mean()
    module.log_dict(log, batch_size=len(nats), sync_dist=True)
    loss = -(nats + model.dims * torch.tensor(max(1, model.levels)).log()).mean() / model.dims
    module.log("val/loss", loss, prog_bar=True, batch_size=len(nats), sync_dist=True)


def test_step(module: L.LightningModule, batch: Batch, batch_idx: int) -> None:
    """Logs "test/nll_nats"; of images "test/bits_per_dim" with one draw, and with DRAWS the importance estimate."""
    model: Flow = module.model  # type: ignore[assignment]
    nats = log_likelihood(model, batch, 1, batch_idx)
    log = {"test/nll_nats": -nats.mean()}
    if model.levels:
        log["test/bits_per_dim"] = bits_per_dim(nats, model.dims).mean()
        estimate = log_likelihood(model, batch, DRAWS, batch_idx)
        log[f"test/bits_per_dim_{DRAWS}_draws"] = bits_per_dim(estimate, model.dims).mean()
    module.log_dict(log, batch_size=len(nats), sync_dist=True)


def log_likelihood(model: Flow, batch: Batch, draws: int, seed: int) -> Tensor:
    """(B,) nats: of points the log-density, of images the bound of `draws` draws. What is random follows the seed."""
    x, labels = split(model, batch)
    return model.log_likelihood(x, labels=labels, generator=torch.Generator().manual_seed(seed), draws=draws)


def split(model: Flow, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """x of a batch, and the labels if the density is conditional."""
    x, *rest = (batch,) if isinstance(batch, Tensor) else batch
    if not model.labels:
        return x, None
    if not rest:
        raise UserError("model.class_conditional is true, but the batches hold no labels")
    return x, rest[0]


def _shape(options: Mapping[str, Any]) -> tuple[int, ...]:
    """(C, H, W) of images on grey levels, (D,) of points."""
    image_shape, num_features = options["image_shape"], options.get("num_features")
    if (image_shape is None) == (num_features is None):
        raise UserError("give a density either model.image_shape or model.num_features: the data fills in its own")
    if num_features is not None:
        return (num_features,)
    if options["levels"] < 2:
        raise UserError(f"model.levels must be at least 2 for images, got {options['levels']}: the data fills it in")
    return tuple(image_shape)


def _num_classes(options: Mapping[str, Any]) -> int:
    """That of the data if the density is conditional, else 0."""
    found = options["num_classes"] if options["class_conditional"] else 0
    if options["class_conditional"] and not (isinstance(found, int) and found):
        raise UserError("model.class_conditional is true, but the data has no single column of classes")
    return int(found)


def _training_rows(module: L.LightningModule) -> Tensor:
    """The first ROWS or so of the training data, from the Trainer's own loader: for data that names no statistics."""
    loop = module.trainer.fit_loop
    loop.setup_data()
    parts: list[Tensor] = []
    for batch in module.trainer.train_dataloader or ():
        parts.append(batch if isinstance(batch, Tensor) else batch[0])
        if sum(map(len, parts)) >= ROWS:
            break
    return torch.cat(parts)
