"""How models of coloured shapes are measured: every property of a valid picture is known."""

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from checkpoints.catalogue import Description
from commands.labels import every_class
from commands.measures.common import Measurement, Metrics, Say, data_for, device_of, draw_samples, in_batches
from zoo.metrics.latents import information_gaps
from zoo.metrics.likelihood import bits_per_dim
from zoo.synthetic.shapes import COLOURS, SHAPES, nearest_drawing

DRAWN = 2000
STOCHASTIC: dict[str, Any] = {"sampler": "ddim", "steps": 50, "eta": 1.0}
Sets = tuple[tuple[str, dict[str, Any], str], ...]  # name of a set of samples, options of `sample`, these in words
# the colour is decided at noise levels from 10 to 50, where "karras" takes twelve of fifty steps and "trailing" three
SAMPLED: Sets = (
    ("ddim50_eta1", STOCHASTIC | {"spacing": "karras"}, "50 DDIM steps, eta 1, Karras' spacing"),
    (
        "dpm++2m-sde50",
        {"sampler": "dpm++2m-sde", "steps": 50, "spacing": "karras"},
        "50 DPM-Solver++ (2M SDE) steps, Karras' spacing",
    ),
    ("ddim50", {"sampler": "ddim", "steps": 50}, "50 DDIM steps, eta 0, trailing spacing"),
)
GUIDED: Sets = tuple(
    (f"scale{scale:g}", STOCHASTIC | {"guidance_scale": scale}, f"50 DDIM steps, eta 1, guidance scale {scale:g}")
    for scale in (1.0, 2.0)
)
NOISE = 0.01  # of the pictures that say how far a valid one may be from its nearest drawing, as a share of the range


def shapes(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """The share of valid pictures; how evenly shapes and colours come, or how often they are those asked for.

    A VAE or VQ-VAE also has a bound of the likelihood, and a VAE's latents are compared with the pictures' properties.

    A picture is valid if its root mean squared error to the nearest drawing is below the 99.9 % quantile of that error
    over the held-out pictures with 1 % noise.
    """
    data = data_for(model, described)
    test, count = data.images("test"), DRAWN // (2 if model.labels else 1)
    say("nearest drawings of held-out pictures")
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    threshold = nearest_drawing(test + 2 * NOISE * noise)[1].quantile(0.999).item()
    rule = f"root mean squared error to the nearest drawing below {threshold:.5f} of the range"
    metrics: Metrics = {}
    labels = None
    if model.labels:
        classes = every_class(model.labels)
        labels = classes[torch.arange(count) % len(classes)]
    for name, options, text in _sets(model):
        at, how = f"_{name}" if name else "", f"{text}, {count} samples"
        say(how)
        samples = draw_samples(model, count, 0, labels, **options)
        drawing, error = nearest_drawing(samples)
        valid = error < threshold
        metrics[f"valid{at}"] = Measurement.of(valid.double().tolist(), f"share of valid pictures: {rule}; {how}")
        metrics[f"median_error{at}"] = Measurement.of(
            [error.median().item()], f"median error to the nearest drawing, of the range; {how}"
        )._replace(spread=1.25 * (error - error.median()).clamp(-threshold, threshold).std().item(), size=count)
        if labels is not None:
            right = (labels[:, 0] == drawing.shape) & (labels[:, 1] == drawing.colour)
            metrics[f"asked{at}"] = Measurement.of(
                right[valid].double().tolist() or [0.0],
                f"share of the valid pictures of the shape and the colour asked for; {how}",
            )
            continue
        for column, names in (("shape", SHAPES), ("colour", COLOURS)):
            counts = getattr(drawing, column).bincount(minlength=len(names)).double()
            expected = count / len(names)
            freedom = len(names) - 1
            # the 99 % quantile, by Wilson and Hilferty's approximation
            limit = freedom * (1 - 2 / (9 * freedom) + 2.3263 * math.sqrt(2 / (9 * freedom))) ** 3
            statistic = ((counts - expected) ** 2 / expected).sum().item()
            metrics[f"{column}_chi_square{at}"] = Measurement(
                statistic,
                math.sqrt(2 * freedom + 4 * max(0.0, statistic - freedom)),  # of the noncentral distribution
                1,
                f"chi-square statistic of the {len(names)} counts against equal ones; below {limit:.1f} in 99 % of "
                f"fair draws; {how}",
            )
    return metrics | _of_density(model, test, say)


def _of_density(model: Any, test: Tensor, say: Say) -> Metrics:
    """A bound of the likelihood, by one draw if draws are taken, and what single latents tell of a drawing."""
    metrics: Metrics = {}
    if not hasattr(model, "mean_image") and not getattr(model, "is_bound", False):
        return metrics
    draws: dict[str, Any] = {"draws": 1} if "draws" in inspect.signature(model.log_likelihood).parameters else {}
    generator, nats = torch.Generator().manual_seed(0), []
    for part in in_batches(test, device_of(model)):
        say("likelihood of held-out pictures")
        nats += model.log_likelihood(part, generator=generator, **draws).tolist()
    bits = bits_per_dim(torch.tensor(nats, dtype=torch.float64), test[0].numel()).tolist()
    how = f"lower bound of the likelihood{', 1 draw' * bool(draws)}, {model.levels} grey levels"
    metrics["bits_per_dim"] = Measurement.of(bits, f"{how}, {len(test)} held-out pictures; error over pictures")
    if not hasattr(model, "mean_image"):  # its latents are no numbers but names
        return metrics
    with torch.inference_mode():
        means = torch.cat([model.encode(part).mean.cpu() for part in in_batches(test, device_of(model))])
    drawing = nearest_drawing(test)[0]
    factors = {"x": drawing.centre[:, 0], "y": drawing.centre[:, 1], "size": drawing.size}
    factors |= {"colour": drawing.colour, "shape": drawing.shape}
    gaps = information_gaps(means, torch.stack([value.to(drawing.size) for value in factors.values()], 1))
    rule = "information that the best latent has about it beyond the second best, over its entropy, in 20 bins"
    for name, gap in zip(factors, gaps.tolist(), strict=True):
        metrics[f"gap_{name}"] = Measurement.of([gap], f"{name} of the shape: {rule}; {len(test)} held-out pictures")
    return metrics


def _sets(model: Any) -> Sets:
    known = inspect.signature(model.sample).parameters
    if "sampler" not in known:
        means: Sets = (("means", {"expected": True}, "means of the decoder"),) if "expected" in known else ()
        return (("", {}, "as the model samples by default"), *means)
    return GUIDED if model.labels else SAMPLED
