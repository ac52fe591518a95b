"""How each kind of model is measured: the protocols behind the numbers on the cards."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from commands.measures.common import (
    DRAWS,
    JUDGE,
    Judge,
    Measurement,
    Metrics,
    batch_sizes,
    draw_samples,
)
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from datamodules import Densities
    from datamodules.images import ImageDataModule

SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)  # of guidance
LIKELIHOOD_STEPS = 50  # of Runge-Kutta
SHAPES_DRAWN = 2000
# the colour is decided at noise levels from 10 to 50, where "karras" takes twelve of fifty steps and "trailing" three
SHAPES_SAMPLED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("ddim50_eta1", {"eta": 1.0, "spacing": "karras"}, "50 DDIM steps, eta 1, Karras' spacing"),
    (
        "dpm++2m-sde50",
        {"sampler": "dpm++2m-sde", "spacing": "karras"},
        "50 DPM-Solver++ (2M SDE) steps, Karras' spacing",
    ),
    ("ddim50", {}, "50 DDIM steps, eta 0, trailing spacing"),
)
SHAPES_GUIDED: tuple[tuple[str, dict[str, Any], str], ...] = tuple(
    (f"scale{scale:g}", {"eta": 1.0, "guidance_scale": scale}, f"50 DDIM steps, eta 1, guidance scale {scale:g}")
    for scale in (1.0, 2.0)
)
NOISE = 0.01  # of the pictures that say how far a valid one may be from its nearest drawing, as a share of the range
Say = Callable[[str], None]


def measure(model: Any, data: "ImageDataModule | Densities", *, full: bool, say: Say) -> Metrics:
    """Every metric of a model by the protocol of its kind and data.

    `full` takes as many draws as a card states; else few enough for ten minutes on two cores.

    Raises:
        UserError: if there is no protocol for such a model.
    """
    from commands.measures.flows import measure_density, measure_flow_images
    from datamodules import Densities, Shapes
    from zoo.flows.model import Flow

    if isinstance(data, Densities):
        return measure_density(model, data, say)
    if isinstance(model, Flow):
        return measure_flow_images(model, data, full=full, say=say)
    kind = type(model).__name__
    if kind == "ImageClassifier":
        return measure_classifier(model, data, full=full, say=say)
    if kind == "NoisyClassifier":
        return measure_noisy_classifier(model, data, full=full, say=say)
    if model.process.num_timesteps < 50:
        raise UserError(f"there is no protocol for a model of {model.process.num_timesteps} steps: 50 are taken")
    if model.num_classes and model.null_labels is None:
        raise UserError("there is no protocol for a model that needs labels: train it with ClassifierFree")
    if isinstance(data, Shapes):
        return measure_shapes(model, data, full=full, say=say)
    if model.process.exploding:
        return measure_score(model, data, full=full, say=say)
    if model.num_classes:
        return measure_guidance(model, data, full=full, say=say)
    return measure_diffusion(model, data, full=full, say=say)


def measure_classifier(model: "nn.Module", data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """Accuracy on the test and validation splits."""
    import torch

    say("classifying")
    metrics = {}
    device = next(model.parameters()).device
    for split, name in (("test", "test_accuracy"), ("val", "validation_accuracy")):
        images, labels = data.images(split), data.labels(split)
        with torch.inference_mode():
            right = (model(images.to(device)).argmax(1).cpu() == labels).double()
        metrics[name] = Measurement.of(right.tolist(), f"share of the {len(labels)} {split} images read right")
    return metrics


def measure_noisy_classifier(model: Any, data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """Accuracy on noised test images, and how often the judge reads what ddpm-digits, guided by it, was asked for."""
    import torch

    import checkpoints

    metrics: Metrics = {}
    images, labels = data.images("test"), data.labels("test")
    guided: Any = checkpoints.load("ddpm-digits", next(model.parameters()).device)
    judge: Any = checkpoints.load(JUDGE["digits"])
    draws = 5 if full else 2
    for scale in (3.0, 1.0):
        read: list[float] = []
        for draw in range(draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {draws}")
            samples = draw_samples(guided, len(images), draw, labels=labels, guidance_scale=scale, classifier=model)
            with torch.inference_mode():
                read += (judge(samples).argmax(1) == labels).double().tolist()
        metrics[f"asked_label_scale{scale:g}"] = Measurement.of(
            read,
            f"share of the samples of ddpm-digits, guided with scale {scale:g} in 50 DDIM steps, that "
            f"{JUDGE['digits']} reads as the label that was asked for; {draws} draws of the test images' labels",
        )
    say("classifying noised images")
    generator = torch.Generator().manual_seed(0)
    last = model.process.num_timesteps
    for share in (0.1, 0.3, 0.5):
        t = torch.full((len(images),), round(share * last))
        noised = model.process.add_noise(images, torch.randn(images.shape, generator=generator), t)
        device = next(model.parameters()).device
        with torch.inference_mode():
            right = (model(noised.to(device), t.to(device)).argmax(1).cpu() == labels).double().tolist()
        metrics[f"test_accuracy_t{t[0]}"] = Measurement.of(
            right, f"share of the {len(labels)} test images, noised to t = {t[0]} of {last}, read right"
        )
    return metrics


def measure_guidance(model: Any, data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """At each scale of guidance: the asked label, read by the judge; FID, precision and recall; copying."""
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
            f"share of samples that {judge.name} reads as the label asked for; guidance scale {scale:g}, {how}",
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


def measure_shapes(model: Any, data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """The share of valid pictures; how evenly shapes and colours come, or how often they are those asked for.

    A picture is valid if its root mean squared error to the nearest drawing is below the 99.9 % quantile of that error
    over the held-out pictures with 1 % noise.
    """
    import torch

    from zoo.synthetic.shapes import COLOURS, SHAPES, nearest_drawing

    test, count = data.images("test"), SHAPES_DRAWN // (2 if model.num_classes else 1)
    say("nearest drawings of held-out pictures")
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    threshold = nearest_drawing(test + 2 * NOISE * noise)[1].quantile(0.999).item()
    rule = f"root mean squared error to the nearest drawing below {threshold:.5f} of the range"
    metrics: Metrics = {}
    for at, options, text in SHAPES_GUIDED if model.num_classes else SHAPES_SAMPLED:
        how = f"{text}, {count} samples"
        say(how)
        labels = model.labels_in_turn(torch.arange(count))
        samples = draw_samples(model, count, 0, labels=labels, **options)
        drawing, error = nearest_drawing(samples)
        valid = error < threshold
        metrics[f"valid_{at}"] = Measurement.of(valid.double().tolist(), f"share of valid pictures: {rule}; {how}")
        metrics[f"median_error_{at}"] = Measurement.of(
            [error.median().item()], f"median error to the nearest drawing, of the range; {how}"
        )._replace(spread=1.25 * (error - error.median()).clamp(-threshold, threshold).std().item(), size=count)
        if model.num_classes:
            right = (labels[:, 0] == drawing.shape) & (labels[:, 1] == drawing.colour)
            metrics[f"asked_{at}"] = Measurement.of(
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
            metrics[f"{column}_chi_square_{at}"] = Measurement(
                statistic,
                math.sqrt(2 * freedom + 4 * max(0.0, statistic - freedom)),  # of the noncentral distribution
                1,
                f"chi-square statistic of the {len(names)} counts against equal ones; below {limit:.1f} in 99 % of "
                f"fair draws; {how}",
            )
    return metrics


def measure_diffusion(model: Any, data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """Feature-FID in 50 DDIM, 10 DPM-Solver++ and all ancestral steps, precision and recall, copying, and the bound."""
    import torch

    from zoo.metrics.likelihood import bits_per_dim

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
    test = data.images("test")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    bounds = [model.bound(x0, data.levels, generator=generator).total for x0 in _batches(test, device)]
    bits = bits_per_dim(-torch.cat(bounds), test[0].numel()).tolist()
    how = f"variational bound of the {len(test)} test images, {data.levels} grey levels, all {last} terms, x0 clipped"
    return metrics | {"bound_bits_per_dim": Measurement.of(bits, how)}


def measure_score(model: Any, data: "ImageDataModule", *, full: bool, say: Say) -> Metrics:
    """Bits per dimension by the probability flow; feature-FID, precision and recall, and copying."""
    import torch

    from zoo.diffusion.likelihood import dequantise, log_bin_volume
    from zoo.metrics.likelihood import bits_per_dim

    test = data.images("test")
    dims = test[0].numel()
    draws = 2 if full else 1
    bits: list[float] = []
    for draw in range(draws):
        say(f"likelihood: draw {draw + 1} of {draws}")
        generator = torch.Generator().manual_seed(draw)
        for x0 in _batches(test, next(model.parameters()).device):
            x0 = dequantise(x0, data.levels, generator)
            density = model.log_likelihood(x0, steps=LIKELIHOOD_STEPS, generator=generator)
            bits += bits_per_dim(density + log_bin_volume(dims, data.levels), dims).tolist()
    flow = Measurement.of(
        bits,
        f"density by the probability flow ({LIKELIHOOD_STEPS} Runge-Kutta steps, Hutchinson's trace) of the "
        f"{len(test)} test images, dequantised: {data.levels} grey levels, a lower bound of the discrete likelihood; "
        f"{draws} draws",
    )._replace(size=len(test))
    sets = {
        "heun18": ({"sampler": "heun", "steps": 18, "spacing": "karras"}, DRAWS),
        "dpm++2m-sde20": ({"sampler": "dpm++2m-sde", "steps": 20}, DRAWS),
    }
    return {"flow_bits_per_dim": flow} | measure_samples(model, data, sets, say)


def measure_samples(
    model: Any, data: "ImageDataModule", sets: dict[str, tuple[dict[str, Any], int]], say: Say
) -> Metrics:
    """Quality and copying of sets of samples: name -> (options of `sample`, draws).

    FID is divided by that of training images against the same test images: 1 is as close to the test images as the
    training images are.
    """
    judge = Judge(data)
    count, base = len(judge.test), judge.base
    space = f"features of {judge.name}, {count} samples against the {count} test images"
    metrics: Metrics = {}
    extra: Metrics = {}
    for label, (options, number) in sets.items():
        found = []
        for draw in range(number):
            say(f"{label}: draw {draw + 1} of {number}")
            found.append(judge(draw_samples(model, count, draw, **options)))
        fids = [scores.fid for scores in found]
        metrics[f"fid_ratio_{label}"] = Measurement.of(
            fids, f"FID over the mean FID of {count} training images, {base:.4f}; {space}; mean of draws", 1 / base
        )
        metrics[f"nearest_ratio_{label}"] = Measurement.of(
            [scores.nearest for scores in found],
            f"median distance of a sample to its nearest training image over that of the test images, "
            f"{judge.unseen:.4f}; below 1 is copying; mean of draws",
            1 / judge.unseen,
        )
        extra[f"fid_{label}"] = Measurement.of(fids, f"FID, {space}; mean of draws")
        for name in ("precision", "recall"):
            extra[f"{name}_{label}"] = Measurement.of(
                [getattr(scores, name) for scores in found],
                f"{name}, 3 nearest neighbours, {space}; mean of draws",
            )

    metrics["fid_training_images"] = Measurement.of(
        judge.baseline, f"FID of {count} training images, {space}; mean of draws"
    )
    return metrics | extra


def _batches(images: "Tensor", device: Any) -> "tuple[Tensor, ...]":
    return images.to(device).split(batch_sizes(len(images)))
