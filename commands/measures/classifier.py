"""How classifiers are measured."""

from typing import Any

import torch
from torch import Tensor

import checkpoints
from checkpoints.catalogue import Description
from checkpoints.tasks import GUIDED
from commands.measures.common import Measurement, Metrics, Say, data_for, device_of, draw_samples, in_words
from commands.measures.judge import JUDGES


def accuracy(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Accuracy on the test and validation splits."""
    data = data_for(model, described)
    say("classifying")
    metrics = {}
    device = device_of(model)
    for split, name in (("test", "test_accuracy"), ("val", "validation_accuracy")):
        images, labels = data.images(split), data.labels(split)
        with torch.inference_mode():
            right = (model(images.to(device)).argmax(1).cpu() == labels).double()
        metrics[name] = Measurement.of(
            right.tolist(), f"share of the {len(labels)} {split} images classified correctly"
        )
    return metrics


def guiding(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """Accuracy on noised test images, and how often samples that it guides are classified as the requested label."""
    data = data_for(model, described)
    images, labels = data.images("test"), data.labels("test")
    kind = described.data["class"]
    metrics = _guided(model, kind, labels, full=full, say=say) if kind in GUIDED else {}
    say("classifying noised images")
    generator = torch.Generator().manual_seed(0)
    last = model.process.num_timesteps
    for share in (0.1, 0.3, 0.5):
        t = torch.full((len(images),), round(share * last))
        noised = model.process.add_noise(images, torch.randn(images.shape, generator=generator), t)
        device = device_of(model)
        with torch.inference_mode():
            right = (model(noised.to(device), t.to(device)).argmax(1).cpu() == labels).double().tolist()
        metrics[f"test_accuracy_t{t[0]}"] = Measurement.of(
            right, f"share of the {len(labels)} test images, noised to t = {t[0]} of {last}, classified correctly"
        )
    return metrics


def _guided(model: Any, kind: str, labels: Tensor, *, full: bool, say: Say) -> Metrics:
    """The share of the guided samples of a shipped model that its judge classifies as the requested label."""
    denoiser, name = GUIDED[kind], JUDGES[kind]
    guided: Any = checkpoints.load(denoiser, device_of(model))
    judge: Any = checkpoints.load(name)
    metrics, draws, how = {}, 5 if full else 2, in_words(guided, {})
    for scale in (3.0, 1.0):
        read: list[float] = []
        for draw in range(draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {draws}")
            samples = draw_samples(guided, len(labels), draw, labels=labels, guidance_scale=scale, classifier=model)
            with torch.inference_mode():
                read += (judge(samples).argmax(1) == labels).double().tolist()
        metrics[f"asked_label_scale{scale:g}"] = Measurement.of(
            read,
            f"share of the samples of {denoiser}, guided with scale {scale:g}{how}, that "
            f"{name} classifies as the requested label; {draws} draws of the test images' labels",
        )
    return metrics
