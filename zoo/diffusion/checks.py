"""What a user can get wrong when asking an image model for a sample: one line each, with the fix."""

import math
from typing import Any

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError


def check_labels(labels: Tensor, counts: tuple[int, ...], num_samples: int) -> None:
    """Labels (num_samples,) of one column, or (num_samples, columns), column i in 0 ... counts[i] - 1."""
    shape = (num_samples, len(counts)) if len(counts) > 1 else (num_samples,)
    if labels.shape not in (shape, (num_samples, len(counts))):
        raise UserError(f"labels must have the shape {shape}, got {tuple(labels.shape)}")
    for column, count in zip(labels.view(num_samples, -1).T.tolist(), counts, strict=True):
        wrong = [label for label in column if not 0 <= label < count]
        if wrong:
            raise UserError(f"labels must lie in 0 ... {count - 1}, got {wrong[0]}")


def check_conditions(
    labels: Tensor | None, classes: tuple[int, ...], null_label: bool, guided: bool, num_samples: int
) -> None:
    """Labels for a model that has such classes, and a null label or not; `guided`: whether guidance is asked for."""
    if labels is not None:
        if not classes:
            raise UserError("labels must not be given: this model is unconditional, and there is no classifier")
        check_labels(labels, tuple(count + null_label for count in classes), num_samples)
    elif classes and not null_label:
        count = " x ".join(map(str, classes))
        raise UserError(f"labels must be given: this model is conditional on {count} classes")
    if guided and not null_label:
        raise UserError("guidance must not be asked for: this model has no null label, and there is no classifier")
    if guided and labels is None:
        raise UserError("labels must be given: guidance is towards a class")


def check_scale(scale: float | Tensor, num_samples: int) -> None:
    """A finite number, or (num_samples,) of them."""
    scales = torch.as_tensor(scale)
    if scales.ndim and scales.shape != (num_samples,):
        raise UserError(f"guidance_scale must be one number, or {num_samples}, got the shape {tuple(scales.shape)}")
    wrong = [value for value in scales.flatten().tolist() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"guidance_scale must be finite, got {wrong[0]}")


def check_classifier(
    classifier: Any, image_shape: tuple[int, int, int], process: NoiseProcess, labels: Tensor | None, num_samples: int
) -> None:
    """A classifier of such images, noised by such a process, and labels for it; what it does not say is not checked."""
    shape = tuple(getattr(classifier, "image_shape", image_shape))
    if shape != tuple(image_shape):
        raise UserError(f"classifier must read images of shape {tuple(image_shape)}, got one for {shape}")
    theirs = getattr(classifier, "process", process)
    if not torch.equal(theirs.alpha_bar, process.alpha_bar) or not torch.equal(theirs.variance, process.variance):
        raise UserError("classifier must be trained on the noise of this model: another schedule or number of steps")
    if labels is None:
        raise UserError("labels must be given: a classifier guides towards a class")
    if hasattr(classifier, "num_classes"):
        check_labels(labels, (classifier.num_classes,), num_samples)
    elif labels.shape != (num_samples,):
        raise UserError(f"labels must be {num_samples} numbers, one a sample, got the shape {tuple(labels.shape)}")
