"""A measured number, and what the protocols share."""

import inspect
import math
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.catalogue import Description
from zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 20  # sets of samples behind an FID
ENTRIES = 80_000  # pixels of the test images that a solver gives the log-likelihood of: 102 images of MNIST's size
BATCH = 160  # images at once: their feature maps still fit the caches of a CPU


class Measurement(NamedTuple):
    """The mean of `size` values whose standard deviation is `spread`."""

    value: float
    spread: float
    size: int
    protocol: str

    @classmethod
    def of(cls, values: Iterable[float], protocol: str, scale: float = 1.0) -> "Measurement":
        """The mean of values, each multiplied by `scale`."""
        values = [scale * value for value in values]
        if not values or not all(math.isfinite(value) for value in values):
            raise UserError(f"a measured value is not finite: {protocol}")
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values), protocol)


Metrics = dict[str, Measurement]
Say = Callable[[str], None]


def load_data(data: dict[str, Any]) -> Any:
    """The DataModule that a description names by "class" and "arguments".

    Raises:
        UserError: if no data set of this project has that name, or its arguments do not fit.
    """
    import datamodules

    name = data.get("class")
    if name not in [*datamodules.__all__]:
        raise UserError(f"unknown data {name!r}: use one of {', '.join(datamodules.__all__)}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in data["arguments"].items()}
    arguments.pop("download", None)  # a file from elsewhere starts no download
    try:
        return getattr(datamodules, name)(**arguments)
    except UserError:
        raise
    except Exception as error:  # values of any type come from a file, so anything may be raised
        raise UserError(f"the arguments of the data {name!r} do not fit: {one_line(str(error))}") from None


def data_for(model: Any, described: Description) -> Any:
    """The data of a model, which must be of the model's shape.

    Raises:
        UserError: as `load_data`, or if the data has another shape.
    """
    data = load_data(described.data)
    shape = (data.num_features,) if hasattr(data, "num_features") else tuple(data.image_shape)
    if tuple(model.shape) != shape:
        raise UserError(
            f"the model is for data of shape {tuple(model.shape)}, but {described.data['class']} has the shape {shape}"
        )
    return data


def draw_samples(model: Any, count: int, seed: int, labels: "Tensor | None" = None, **options: Any) -> "Tensor":
    """(count, *shape) on the CPU, by the model's own options where others are not given.

    Raises:
        UserError: if a sample is not finite: FID would hand it to an eigenvalue solver, which may crash.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts, first = [], 0
    for size in batch_sizes(count):
        asked = {} if labels is None else {"labels": labels[first : first + size]}
        parts.append(model.sample(size, generator=generator, **asked, **options).cpu())
        first += size
    samples = torch.cat(parts)
    if not samples.isfinite().all():
        raise UserError("the model draws samples that are not finite (NaN or infinite): its training has diverged")
    return samples


def few_steps(model: Any) -> dict[str, Any]:
    """The options by which a model is sampled as by default, in no more steps than it was trained with."""
    default, last = inspect.signature(model.sample).parameters["steps"].default, model.process.num_timesteps
    return {} if default <= last else {"steps": last}


def in_words(model: Any, options: dict[str, Any]) -> str:
    """How a diffusion model is sampled, with its defaults where an option is not given."""
    known = inspect.signature(model.sample).parameters
    if "steps" not in known:
        return ""
    steps = options.get("steps", known["steps"].default)
    if "sampler" not in known:  # a consistency model
        return f", {steps} step{'s' * (steps > 1)}"
    sampler = options.get("sampler", known["sampler"].default)
    return f", {steps} steps of {sampler}" + f", {options.get('spacing')} spacing" * ("spacing" in options)


def batch_sizes(count: int) -> list[int]:
    """Batches of nearly one size, so that a compiled network is compiled for at most two."""
    import torch

    return [len(rows) for rows in torch.arange(count).chunk(math.ceil(count / BATCH))]


def affordable(images: "Tensor") -> "Tensor":
    """The rows of ENTRIES pixels' worth of images (N, ...), evenly spaced, so that each class has its share."""
    import torch

    count = min(len(images), max(1, ENTRIES // images[0].numel()))
    return torch.arange(count) * len(images) // count


def device_of(model: Any) -> Any:
    """Where the weights of a model are."""
    return next(model.parameters()).device


def in_batches(images: "Tensor", device: Any) -> "tuple[Tensor, ...]":
    """Images on a device, in batches of nearly one size."""
    return images.to(device).split(batch_sizes(len(images)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def say(text: str) -> None:
    """Progress: one line on standard error that each next one replaces; silent when that is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
