"""How models that draw images are measured: quality, sharpness, copying, guidance, and likelihood."""

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
    few_steps,
    in_batches,
    in_words,
)
from commands.measures.judge import Judge, Scores, has_judge
from zoo.metrics.likelihood import bits_per_dim
from zoo.metrics.samples import nearest_distances
from zoo.metrics.spectrum import spectrum_ratio

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)  # of guidance
LIKELIHOOD_STEPS = 50  # of Runge-Kutta
SMALL = 256  # pixels of an image up to which all steps of training, and all draws, are affordable for every test image
SHARPNESS = "mean power in the upper half of spatial frequencies over that of the test images; below 1 is blur"
DISTANCE = "median distance of a sample to its nearest training image over that of a test image"
Sets = dict[str, tuple[dict[str, Any], int]]  # name of a set of samples -> options of `sample`, number of draws


def guidance(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """At each scale of guidance, how often a sample shows the requested label, FID, recall and sharpness.

    At scale 1, where labels count as learned, everything that `measure_samples` finds, of more draws.
    """
    data = data_for(model, described)
    if not has_judge(data) or getattr(model, "null_labels", None) is None:
        return samples(model, described, full=full, say=say)
    judge, few = Judge(data, by_label=True), few_steps(model)
    labels, count = judge.labels, len(judge.test)
    kinds: dict[str, Metrics] = {"asked_label": {}, "fid_ratio": {}, "recall": {}, "spectrum_ratio": {}}
    rest: Metrics = {}
    for scale in SCALES:
        draws = (DRAWS if full else 5) if scale == 1 else (3 if full else 2)
        at, found = f"_scale{scale:g}", []
        for draw in range(draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {draws}")
            drawn = draw_samples(model, count, draw, labels=labels, guidance_scale=scale, **few)
            found.append(judge(drawn, labels))
        how = f"{count} samples of the test images' labels, guidance scale {scale:g}{in_words(model, few)}"
        read = Measurement.of(
            [right for scores in found for right in scores.read],
            f"share of samples that {judge.name} classifies as the requested label; {how}; {draws} draws",
        )
        quality = {f"asked_label{at}": read} | _quality(judge, found, at, how)
        for kind, metrics in kinds.items():
            metrics[kind + at] = quality.pop(kind + at)
        if scale == 1:
            rest = quality
    asked = kinds["asked_label"]
    best = max(asked, key=lambda metric: asked[metric].value)
    ordered = {name: metric for metrics in kinds.values() for name, metric in metrics.items()}
    return {best: asked[best]} | ordered | rest | _real_images(judge)


def samples(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Feature-FIDs, sharpness, copying, precision and recall of what the model draws by default.

    A diffusion model is also sampled in 50 DDIM steps and, where images are small, in all ancestral steps, and has a
    bound.
    """
    data = data_for(model, described)
    known = inspect.signature(model.sample).parameters
    if "sampler" not in known:  # one way of sampling, as of an adversarial model
        draws = DRAWS if full else 4
        one_step: Sets = {"1step": ({"steps": 1}, draws)} if "steps" in known else {}  # of a consistency model
        return measure_samples(model, data, {"": ({}, draws)} | one_step, say)
    last, small = model.process.num_timesteps, data.images("test")[0].numel() <= SMALL
    sets: Sets = {"": (few_steps(model), DRAWS if full else 5)}
    if last >= 50:
        sets["ddim50"] = ({"sampler": "ddim", "steps": 50}, 5 if full else 2)
    if small:
        sets[f"ddpm{last}"] = ({"sampler": "ddpm", "steps": last}, 2 if full else 1)
    metrics = measure_samples(model, data, sets, say)
    bound = {"bound_bits_per_dim": _bound(model, data, 1 if small else 10, say)}
    return metrics | bound if has_judge(data) else bound | metrics  # no FID to be the headline


def _bound(model: Any, data: Any, every: int, say: Say) -> Measurement:
    """The variational bound of one test image in `every`."""
    images, labels = data.images("test")[::every], data.labels("test")[::every]
    generator, bits = torch.Generator().manual_seed(0), []
    for rows in torch.arange(len(images)).split(batch_sizes(len(images))):
        say(f"variational bound: image {rows[0]} of {len(images)}")
        x0 = images[rows].to(device_of(model))
        given = labels[rows] if model.labels else None
        bound = model.bound(x0, data.levels, labels=given, generator=generator).total
        bits += bits_per_dim(-bound, images[0].numel()).tolist()
    which = f"the {len(images)} test images" if every == 1 else f"{len(images)} test images, one in {every}"
    terms = f"all {model.process.num_timesteps} terms"
    return Measurement.of(bits, f"variational bound of {which}, {data.levels} grey levels, {terms}, x0 clipped")


def score(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Bits per dimension by the probability flow; feature-FID, precision and recall, and copying."""
    data = data_for(model, described)
    images = data.images("test")
    test, draws = images[affordable(images)], 2 if full else 1
    generator = torch.Generator().manual_seed(0)
    bits: list[float] = []
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
    number = DRAWS if images[0].numel() <= SMALL else 5
    sets = {
        "heun18": ({"sampler": "heun", "steps": 18, "spacing": "karras"}, number),
        "dpm++2m-sde20": ({"sampler": "dpm++2m-sde", "steps": 20}, number),
    }
    return {"flow_bits_per_dim": flow} | measure_samples(model, data, sets, say)


def measure_samples(model: Any, data: Any, sets: Sets, say: Say) -> Metrics:
    """Quality, sharpness and copying of sets of samples; of the first set everything, of the others what matters most.

    FID is divided by that of training images against the same test images: 1 is as close to the test images as the
    training images are. Data without a judge have no FID.
    """
    labels = _needed_labels(model, data.labels("test"))
    if not has_judge(data):
        return _measure_copying(model, data, labels, sets, say)
    judge = Judge(data, by_label=labels is not None)
    count, metrics = len(judge.test), Metrics()
    for label, (options, number) in sets.items():
        found = []
        for draw in range(number):
            say(f"{label or 'samples'}: draw {draw + 1} of {number}")
            found.append(judge(draw_samples(model, count, draw, labels, **options)))
        given = "" if labels is None else " of the test images' labels"
        at, how = f"_{label}" if label else "", f"{count} samples{given}{in_words(model, options)}"
        quality = _quality(judge, found, at, how)
        if metrics:
            quality = {name: metric for name, metric in quality.items() if name.removesuffix(at).endswith("_ratio")}
        metrics |= quality
    return metrics | _real_images(judge)


def _quality(judge: Judge, found: list[Scores], at: str, how: str) -> Metrics:
    """The metrics of sets of samples, their names ending in `at`; `how` they were drawn, in words."""
    against = f"{how}, against the {len(judge.test)} test images; {len(found)} draws"
    training = f"training images{' of the same labels' if judge.by_label else ''}"
    ratios = {
        "fid": (f"FID over the mean FID of as many {training}, features of {judge.name}", judge.base),
        "random_fid": (f"the same in the features of a network of random weights; {training}", judge.random_base),
    }
    metrics: Metrics = {}
    for name, (text, base) in ratios.items():
        fids = [getattr(scores, name) for scores in found]
        metrics[f"{name}_ratio{at}"] = Measurement.of(fids, f"{text}, {base:.4f}; {against}", 1 / base)
    metrics[f"spectrum_ratio{at}"] = Measurement.of(
        [scores.spectrum_ratio for scores in found], f"{SHARPNESS}; {against}"
    )
    metrics[f"nearest_ratio{at}"] = Measurement.of(
        [scores.nearest for scores in found],
        f"{DISTANCE}, {judge.unseen:.4f}; below nearest_ratio_training_images is copying; {against}",
        1 / judge.unseen,
    )
    metrics[f"fid{at}"] = Measurement.of([scores.fid for scores in found], f"FID, features of {judge.name}; {against}")
    for name in ("precision", "recall"):
        metrics[name + at] = Measurement.of(
            [getattr(scores, name) for scores in found],
            f"{name}, 3 nearest neighbours, features of {judge.name}; {against}",
        )
    return metrics


def _real_images(judge: Judge) -> Metrics:
    """What the FID of real images is."""
    count, space = len(judge.test), f"features of {judge.name}, against the test images"
    drawn = f"{count} training images{' of the labels of the test images' if judge.by_label else ', of any label'}"
    return {
        "fid_training_images": Measurement.of(judge.baseline, f"FID of {drawn}, {space}; {len(judge.baseline)} draws"),
        "fid_validation_images": Measurement.of(
            [judge.validation], f"FID of the {judge.num_validation} validation images, {space}"
        ),
        "nearest_ratio_training_images": _among(judge.among, judge.unseen, count),
    }


def _among(among: float, unseen: float, count: int) -> Measurement:
    """How near new images from the source of the training images would lie: it may be a nearer one than the test's."""
    text = f"median distance of {count} training images to the nearest other one over that of test images, {unseen:.4f}"
    return Measurement.of([among / unseen], text)


def _measure_copying(model: Any, data: Any, labels: Tensor | None, sets: Sets, say: Say) -> Metrics:
    """How sharp samples are, and how far they lie from the training images, in pixels."""
    train, test = data.images("train"), data.images("test")
    unseen = nearest_distances(test, train).median().item()
    metrics: Metrics = {}
    for label, (options, number) in sets.items():
        sharp, nearest = [], []
        for draw in range(number):
            say(f"{label or 'samples'}: draw {draw + 1} of {number}")
            drawn = draw_samples(model, len(test), draw, labels, **options)
            sharp.append(spectrum_ratio(drawn, test))
            nearest.append(nearest_distances(drawn, train).median().item())
        at, how = f"_{label}" if label else "", f"{len(test)} samples{in_words(model, options)}; {number} draws"
        metrics[f"spectrum_ratio{at}"] = Measurement.of(sharp, f"{SHARPNESS}; {how}")
        metrics[f"nearest_ratio{at}"] = Measurement.of(
            nearest, f"{DISTANCE}, {unseen:.4f}; below nearest_ratio_training_images is copying; {how}", 1 / unseen
        )
    among = nearest_distances(train[: len(test)], train, among=True).median().item()
    return metrics | {"nearest_ratio_training_images": _among(among, unseen, len(test))}


def _needed_labels(model: Any, labels: Tensor) -> Tensor | None:
    """The labels, for a model that cannot draw without."""
    return labels if model.labels and getattr(model, "null_labels", None) is None else None
