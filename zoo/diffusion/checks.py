"""What a user can get wrong when sampling an image model: one line each, which names the parameter and the fix."""

import math

import torch
from torch import Tensor

from zoo.diffusion.guidance import Classifier
from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError


def whole_labels(labels: Tensor) -> Tensor:
    """Labels of any integer type, or a list of whole numbers, as an int64 tensor."""
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"labels must be a tensor of whole numbers, got {str(labels)[:80]}") from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UserError(f"labels must be whole numbers, got the type {str(labels.dtype).removeprefix('torch.')}")
    return labels.long()


def check_labels(labels: Tensor, counts: tuple[int, ...], n: int) -> None:
    """Labels (n,) of one column, or (n, columns), column i in 0 ... counts[i] - 1."""
    shape = (n, len(counts)) if len(counts) > 1 else (n,)
    if labels.shape not in (shape, (n, len(counts))):
        raise UserError(f"labels must have the shape {shape}, got {tuple(labels.shape)}")
    for column, count in zip(labels.view(n, -1).T.tolist(), counts, strict=True):
        wrong = [label for label in column if not 0 <= label < count]
        if wrong:
            raise UserError(f"labels must lie in 0 ... {count - 1}, got {wrong[0]}")


def check_conditions(
    labels: Tensor | None,
    classifier: Classifier | None,
    counts: tuple[int, ...],
    null_labels: Tensor | None,
    image_shape: tuple[int, int, int],
    process: NoiseProcess,
    n: int,
) -> None:
    """Labels, or a classifier and labels, that fit a model with `counts` of classes, such images and such noise.

    A model with a null label needs no labels.
    """
    null_label = null_labels is not None
    if classifier is not None:
        if counts and not null_label:
            raise UserError("classifier must not be given: this model is conditional and has no null label")
        check_classifier(classifier, image_shape, process, labels, n)
    elif labels is not None:
        if not counts:
            raise UserError("labels must not be given: this model is unconditional, and there is no classifier")
        check_labels(labels, tuple(count + null_label for count in counts), n)
    elif counts and not null_label:
        classes = " x ".join(map(str, counts))
        raise UserError(f"labels must be given: this model is conditional on {classes} classes")


def check_guidance(
    labels: Tensor | None,
    null_labels: Tensor | None,
    classifier: Classifier | None,
    scale: float | Tensor,
    interval: tuple[float, float] | None,
    rescale: float,
    n: int,
) -> None:
    """A finite scale, one number or (n,); a null label or a classifier for it to act on; and labels."""
    scales = torch.as_tensor(scale)
    if scales.ndim and scales.shape != (n,):
        raise UserError(f"guidance_scale must be one number, or {n}, got the shape {tuple(scales.shape)}")
    wrong = [value for value in scales.flatten().tolist() if not math.isfinite(value)]
    if wrong:
        raise UserError(f"guidance_scale must be finite, got {wrong[0]}")
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1]):
        raise UserError(f"guidance_interval must be two noise levels, the lower first, got {interval!r}")
    if not 0 <= rescale <= 1:
        raise UserError(f"guidance_rescale must be between 0 and 1, got {rescale!r}")
    guided = bool((scales != 1).any())
    free = {"guidance_interval": interval is not None, "guidance_rescale": rescale > 0}
    only_free = [name for name, is_given in free.items() if is_given]
    if only_free and classifier is not None:
        raise UserError(f"{only_free[0]} must not be given with a classifier: it belongs to classifier-free guidance")
    given = ["guidance_scale"] * guided + only_free
    if given and null_labels is None and classifier is None:
        raise UserError(f"{given[0]} has nothing to guide: this model has no null label, and there is no classifier")
    if given and labels is None:
        raise UserError("labels must be given: guidance is towards a class")
    if only_free and not guided:
        raise UserError(f"{only_free[0]} has no meaning without a guidance_scale other than 1")


def check_classifier(
    classifier: Classifier, image_shape: tuple[int, int, int], process: NoiseProcess, labels: Tensor | None, n: int
) -> None:
    """A classifier of such images on the noise of such a process, and labels for it; missing attributes pass."""
    shape = tuple(getattr(classifier, "image_shape", image_shape))
    if shape != tuple(image_shape):
        raise UserError(f"classifier must read images of shape {tuple(image_shape)}, got one for {shape}")
    theirs = getattr(classifier, "process", process)
    if not torch.equal(theirs.alpha_bar, process.alpha_bar) or not torch.equal(theirs.variance, process.variance):
        raise UserError("classifier must be trained on the noise of this model: another schedule or number of steps")
    if labels is None:
        raise UserError("labels must be given: a classifier guides towards a class")
    counts: tuple[int, ...] | None = getattr(classifier, "labels", None)
    if counts is not None:
        check_labels(labels, counts, n)
    elif labels.shape != (n,):
        raise UserError(f"labels must be {n} numbers, one a sample, got the shape {tuple(labels.shape)}")


def check_density(x: Tensor, shape: tuple[int, ...], levels: int, draws: int) -> None:
    """Images of the model's shape, on a grid of grey levels or (levels 0) not, and how often noise is drawn."""
    if x.shape[1:] != shape:
        raise UserError(f"x must have the shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if levels < 0 or levels == 1:
        raise UserError(f"levels must be 0 or at least 2, got {levels!r}")
    if draws < 1:
        raise UserError(f"draws must be at least 1, got {draws!r}")
