"""How densities of images are measured: bits per dimension, and the quality of what they draw."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoints.catalogue import Description
from commands.measures.common import DRAWS, Measurement, Metrics, Say, affordable, data_for, device_of, in_batches
from commands.measures.images import measure_samples
from zoo.metrics.likelihood import bits_per_dim
from zoo.protocols import Sampler
from zoo.vae.codebook import perplexity

ESTIMATES = 2  # draws behind a log-likelihood that is itself an estimate; the error over images is far above theirs
ACTIVE = 0.01  # variance of a latent in use
PRIOR = 0.1  # counts that every grey level of a pixel starts with, in the baseline


def likelihood(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Bits per dimension of the test images: exact; or where the model takes `draws`, with its default and with one.

    Those of a model of codes are a bound, and how many codes are in use is counted, as are the latents of a VAE. Where
    log-densities are themselves estimates, the mean over ESTIMATES draws, of some images if they are large.

    Then those of independent pixels, the baseline that a model of so few images must beat, and the quality of samples.
    """
    data = data_for(model, described)
    metrics: Metrics = {}
    default = inspect.signature(model.log_likelihood).parameters.get("draws")
    if getattr(model, "is_bound", False):  # a VQ-VAE
        how = "lower bound of the likelihood, from the codes nearest to what the encoder says"
        metrics["bits_per_dim"] = _bits(model, data, {}, how, say)
        metrics["codes_in_use"] = _codes_in_use(model, data)
    elif default is None:
        metrics["bits_per_dim"] = _bits(model, data, {}, "exact", say)
    elif getattr(model, "is_estimate", False):
        how = f"Hutchinson's trace, mean of {ESTIMATES} draws, a lower bound of the likelihood"
        metrics["bits_per_dim"] = _bits(model, data, {"draws": ESTIMATES}, how, say)
    else:
        name, how = f"bits_per_dim_{default.default}_draws", f"importance estimate, {default.default} draws"
        metrics[name] = _bits(model, data, {"draws": default.default}, how, say)
        metrics["bits_per_dim_1_draw"] = _bits(model, data, {"draws": 1}, "lower bound of the likelihood, 1 draw", say)
        if hasattr(model, "mean_image"):  # a VAE
            metrics["active_units"] = _active_units(model, data)
    count = len(data.images("test"))
    metrics["bits_per_dim_independent_pixels"] = Measurement.of(
        independent_pixels(data).tolist(),
        f"baseline: each pixel's grey levels as often as in the training images, {PRIOR:g} added to each count; exact, "
        f"{count} test images",
    )
    if model.labels or not isinstance(model, Sampler):
        return metrics
    draws = DRAWS if full else 4
    if getattr(model, "is_estimate", False):
        draws = 2  # of large images, whose samples are each a solve
    sets: dict[str, tuple[dict[str, Any], int]] = {"temperature1": ({}, draws)}
    return metrics | measure_samples(model, data, sets, say)


def _bits(model: Any, data: Any, options: dict[str, Any], how: str, say: Say) -> Measurement:
    images, labels = data.images("test"), data.labels("test")
    if getattr(model, "is_estimate", False):
        rows = affordable(images)
        images, labels = images[rows], labels[rows]
    device, dims = device_of(model), images[0].numel()
    generator, bits = torch.Generator().manual_seed(0), []
    for rows in torch.arange(len(images)).split(100):
        say(f"{how}: image {rows[0]} of {len(images)}")
        given = labels[rows].to(device) if model.labels else None
        with torch.inference_mode():
            nats = model.log_likelihood(images[rows].to(device), labels=given, generator=generator, **options)
        bits += bits_per_dim(nats.double(), dims).tolist()
    text = f"{how}, {data.levels} grey levels, {len(images)} test images; error over images"
    return Measurement.of(bits, text)


def _active_units(model: Any, data: Any) -> Measurement:
    """Latents that a VAE uses: Burda et al. 2015, arXiv:1509.00519, section 5.2."""
    images = data.images("test")
    with torch.inference_mode():
        means = torch.cat([model.encode(part).mean for part in in_batches(images, device_of(model))])
    count = float((means.var(0) > ACTIVE).sum())
    text = f"latents of {model.latents} whose posterior mean varies by more than {ACTIVE:g} over the test images"
    return Measurement.of([count], text)


def _codes_in_use(model: Any, data: Any) -> Measurement:
    """exp of the entropy of the codes' shares in the test images."""
    images, device = data.images("test"), device_of(model)
    with torch.inference_mode():
        index = torch.cat([model.encode(part.to(device)).flatten() for part in images.split(100)])
    value = perplexity(torch.bincount(index, minlength=model.num_codes)).item()
    text = f"perplexity of the {model.num_codes} codes in {len(images)} test images: so many if all were used alike"
    return Measurement.of([value], text)


def independent_pixels(data: Any) -> Tensor:
    """Bits per dimension (N,) of the test images under the product of the pixels' own distributions."""
    train, test = (
        ((data.images(split).flatten(1) + 1) * ((data.levels - 1) / 2)).round().long() for split in ("train", "test")
    )
    counts = F.one_hot(train, data.levels).double().sum(0) + PRIOR  # (D, levels)
    log_share = (counts / counts.sum(1, keepdim=True)).log()
    pixels = torch.arange(train.shape[1])
    return bits_per_dim(log_share[pixels, test].sum(1), train.shape[1])
