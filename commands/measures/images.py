"""How models that draw images are measured: quality, copying, guidance, and likelihood."""

import inspect
from typing import Any

import torch
from torch import Tensor

from checkpoints.catalogue import Description
from commands.measures.common import (
    DRAWS,
    Measurement,
    Metrics,
    Say,
    affordable,
    batch_sizes,
    data_for,
    device_of,
    draw_samples,
    in_batches,
)
from commands.measures.judge import Judge, has_judge
from zoo.errors import UserError
from zoo.metrics.likelihood import bits_per_dim
from zoo.metrics.samples import nearest_distances

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)  # of guidance
LIKELIHOOD_STEPS = 50  # of Runge-Kutta


def guidance(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """At each scale of guidance: how often a sample shows the label asked for; FID, precision and recall; copying."""
    data = data_for(model, described)
    if not has_judge(data):
        return samples(model, described, full=full, say=say)
    _check(model)
    judge = Judge(data)
    draws, labels, count = 5 if full else 2, judge.labels, len(judge.test)
    how = f"50 DDIM steps, {count} samples of the test images' labels, {draws} draws"
    space = f"features of {judge.name}; {how}"
    asked, fids, rest = {}, {}, {}
    for scale in SCALES:
        found = []
        for draw in range(draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {draws}")
            found.append(judge(draw_samples(model, count, draw, labels=labels, guidance_scale=scale), labels))
        at = f"scale{scale:g}"
        asked[f"asked_label_{at}"] = Measurement.of(
            [right for scores in found for right in scores.read],
            f"share of samples that {judge.name} assigns to the label asked for; guidance scale {scale:g}, {how}",
        )
        fids[f"fid_ratio_{at}"] = Measurement.of(
            [scores.fid for scores in found],
            f"FID over the mean FID of {count} training images, {judge.base:.4f}; {space}",
            1 / judge.base,
        )
        for name in ("precision", "recall"):
            rest[f"{name}_{at}"] = Measurement.of(
                [getattr(scores, name) for scores in found], f"3 nearest neighbours, {space}"
            )
        rest[f"nearest_ratio_{at}"] = Measurement.of(
            [scores.nearest for scores in found],
            f"median distance of a sample to its nearest training image over that of the test images, "
            f"{judge.unseen:.4f}; below 1 is copying; {how}",
            1 / judge.unseen,
        )
    best = max(asked, key=lambda metric: asked[metric].value)
    return {best: asked[best]} | asked | fids | rest


def samples(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Feature-FID, precision and recall, copying.

    A diffusion model is sampled in 50 DDIM, in 10 DPM-Solver++ and in all ancestral steps, and has a bound.
    """
    data = data_for(model, described)
    if "sampler" not in inspect.signature(model.sample).parameters:  # one way of sampling, as of an adversarial model
        return measure_samples(model, data, {"": ({}, DRAWS if full else 4)}, say)
    _check(model)
    last = model.process.num_timesteps
    metrics = measure_samples(
        model,
        data,
        {
            "ddim50": ({"sampler": "ddim", "steps": 50}, DRAWS),
            "dpm++2m-sde10": ({"sampler": "dpm++2m-sde", "steps": 10}, DRAWS),
            f"ddpm{last}": ({"sampler": "ddpm", "steps": last}, DRAWS if full else 2),
        },
        say,
    )
    say("variational bound")
    images, labels = data.images("test"), data.labels("test")
    generator, bits = torch.Generator().manual_seed(0), []
    for rows in torch.arange(len(images)).split(batch_sizes(len(images))):
        x0 = images[rows].to(device_of(model))
        given = labels[rows] if model.labels else None
        bound = model.bound(x0, data.levels, labels=given, generator=generator).total
        bits += bits_per_dim(-bound, images[0].numel()).tolist()
    how = f"variational bound of the {len(images)} test images, {data.levels} grey levels, all {last} terms, x0 clipped"
    bound_of_test = {"bound_bits_per_dim": Measurement.of(bits, how)}
    return metrics | bound_of_test if has_judge(data) else bound_of_test | metrics  # no FID to be the headline


def score(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Bits per dimension by the probability flow; feature-FID, precision and recall, and copying."""
    data = data_for(model, described)
    images = data.images("test")
    test, draws = images[affordable(images)], 2 if full else 1
    generator, bits = torch.Generator().manual_seed(0), []
    for x0 in in_batches(test, device_of(model)):
        say(f"likelihood: image {len(bits)} of {len(test)}")
        nats = model.log_likelihood(x0, levels=data.levels, draws=draws, steps=LIKELIHOOD_STEPS, generator=generator)
        bits += bits_per_dim(nats, test[0].numel()).tolist()
    flow = Measurement.of(
        bits,
        f"density by the probability flow ({LIKELIHOOD_STEPS} Runge-Kutta steps, Hutchinson's trace) of "
        f"{len(test)} test images, dequantised: {data.levels} grey levels, a lower bound of the discrete likelihood; "
        f"mean of log-densities over {draws} draws; error over images",
    )
    sets = {
        "heun18": ({"sampler": "heun", "steps": 18, "spacing": "karras"}, DRAWS),
        "dpm++2m-sde20": ({"sampler": "dpm++2m-sde", "steps": 20}, DRAWS),
    }
    return {"flow_bits_per_dim": flow} | measure_samples(model, data, sets, say)


def measure_samples(model: Any, data: Any, sets: dict[str, tuple[dict[str, Any], int]], say: Say) -> Metrics:
    """Quality and copying of sets of samples: name -> (options of `sample`, draws).

    FID is divided by that of training images against the same test images: 1 is as close to the test images as the
    training images are. Data without a judge have no FID.
    """
    if not has_judge(data):
        return _measure_copying(model, data, sets, say)
    judge = Judge(data)
    count, base, labels = len(judge.test), judge.base, _needed_labels(model, judge.labels)
    given = "" if labels is None else " of their labels"
    space = f"features of {judge.name}, {count} samples{given} against the {count} test images"
    metrics: Metrics = {}
    extra: Metrics = {}
    for label, (options, number) in sets.items():
        at = f"_{label}" if label else ""
        found = []
        for draw in range(number):
            say(f"{label or 'samples'}: draw {draw + 1} of {number}")
            found.append(judge(draw_samples(model, count, draw, labels, **options)))
        fids = [scores.fid for scores in found]
        metrics[f"fid_ratio{at}"] = Measurement.of(
            fids, f"FID over the mean FID of {count} training images, {base:.4f}; {space}; mean of draws", 1 / base
        )
        metrics[f"nearest_ratio{at}"] = Measurement.of(
            [scores.nearest for scores in found],
            f"median distance of a sample to its nearest training image over that of the test images, "
            f"{judge.unseen:.4f}; below 1 is copying; mean of draws",
            1 / judge.unseen,
        )
        extra[f"fid{at}"] = Measurement.of(fids, f"FID, {space}; mean of draws")
        for name in ("precision", "recall"):
            extra[f"{name}{at}"] = Measurement.of(
                [getattr(scores, name) for scores in found],
                f"{name}, 3 nearest neighbours, {space}; mean of draws",
            )

    metrics["fid_training_images"] = Measurement.of(
        judge.baseline, f"FID of {count} training images, {space}; mean of draws"
    )
    return metrics | extra


def _measure_copying(model: Any, data: Any, sets: dict[str, tuple[dict[str, Any], int]], say: Say) -> Metrics:
    """How far samples lie from the training images, in pixels."""
    train, test = data.images("train"), data.images("test")
    unseen = nearest_distances(test, train).median().item()
    metrics: Metrics = {}
    for label, (options, number) in sets.items():
        at = f"_{label}" if label else ""
        found = []
        for draw in range(number):
            say(f"{label or 'samples'}: draw {draw + 1} of {number}")
            drawn = draw_samples(model, len(test), draw, _needed_labels(model, data.labels("test")), **options)
            found.append(nearest_distances(drawn, train).median())
        metrics[f"nearest_ratio{at}"] = Measurement.of(
            torch.stack(found).tolist(),
            f"median distance of a sample to its nearest training image over that of the test images, {unseen:.4f}; "
            f"below 1 is copying; {len(test)} samples, mean of draws",
            1 / unseen,
        )
    return metrics


def _needed_labels(model: Any, labels: Tensor) -> Tensor | None:
    """The labels, for a model that cannot draw without."""
    return labels if model.labels and getattr(model, "null_labels", None) is None else None


def _check(model: Any) -> None:
    """Raises a UserError for a model that the protocol cannot sample."""
    if model.process.num_timesteps < 50:
        raise UserError(
            f"the protocol takes 50 steps, but this model has {model.process.num_timesteps}: train it with more"
        )
