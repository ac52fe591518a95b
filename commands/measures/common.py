"""A measured number, and what the protocols share."""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import Densities
    from datamodules.images import ImageDataModule
    from zoo.metrics.samples import FeatureFID

JUDGE = {"digits": "classifier-digits"}  # data -> the model whose features the FID is taken in
# as in `zoo.synthetic.densities`, which brings in PyTorch: too slow for --help
TOYS = ("moons", "circles", "rings", "pinwheel", "8gaussians", "checkerboard", "2spirals", "swissroll")
DATA = ("digits", "shapes", *TOYS)
DRAWS = 20  # sets of samples behind an FID


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
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values), protocol)


Metrics = dict[str, Measurement]


def load_data(name: str) -> "ImageDataModule | Densities":
    """The data set of a name in DATA."""
    from datamodules import Densities, Digits, Shapes

    return Densities(name) if name in TOYS else {"digits": Digits, "shapes": Shapes}[name]()


class Scores(NamedTuple):
    """What a judge finds in one set of samples; distances are medians to the nearest training image."""

    fid: float
    nearest: float
    precision: float
    recall: float
    read: list[float]  # for each sample 1 if it reads as the label asked for, else 0; empty if none was


class Judge:
    """The classifier in whose features samples are compared with the test images of its data.

    Attributes:
        name: of the shipped model.
        test, labels: the test split.
        baseline: the FID of as many training images, drawn `DRAWS` times. base: its mean.
        unseen: the median distance of a test image to its nearest training image.
    """

    def __init__(self, data: "ImageDataModule") -> None:
        import torch

        import checkpoints
        from zoo.metrics.samples import FeatureFID, nearest_distances

        self.name = JUDGE[type(data).__name__.lower()]
        self._model: Any = None  # no module to mypy, which knows nothing of the classifier's own methods
        self._model = checkpoints.load(self.name)
        self._train, self.test, self.labels = data.images("train"), data.images("test"), data.labels("test")
        self._fid = FeatureFID(self._model, self.test)
        self.baseline = fid_of_training_images(self._fid, self._train, len(self.test))
        self.base = mean(self.baseline)
        self.unseen = nearest_distances(self.test, self._train).median().item()
        with torch.inference_mode():
            self._features = self._model.features(self.test)

    def __call__(self, samples: "Tensor", labels: "Tensor | None" = None) -> Scores:
        import torch

        from zoo.metrics.samples import nearest_distances, precision_recall

        with torch.inference_mode():
            features = self._model.features(samples)
            read = [] if labels is None else (self._model.to_logits(features).argmax(1) == labels).double().tolist()
        nearest = nearest_distances(samples, self._train).median().item()
        return Scores(self._fid(samples), nearest, *precision_recall(self._features, features), read)


def draw_samples(model: Any, count: int, seed: int, labels: "Tensor | None" = None, **options: Any) -> "Tensor":
    """(count, C, H, W) on the CPU, by default in 50 DDIM steps."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    parts, first = [], 0
    for size in batch_sizes(count):
        asked = {} if labels is None else {"labels": labels[first : first + size]}
        parts.append(model.sample(size, generator=generator, **asked, **options).cpu())
        first += size
    return torch.cat(parts)


def batch_sizes(count: int) -> list[int]:
    """Batches of nearly one size, so that a compiled network is compiled for at most two."""
    import torch

    from commands.sample import BATCH

    return [len(rows) for rows in torch.arange(count).chunk(math.ceil(count / BATCH))]


def fid_of_training_images(fid: "FeatureFID", train: "Tensor", count: int) -> list[float]:
    """The FID of `count` training images, drawn `DRAWS` times: what a perfect model would have."""
    import torch

    shuffled = torch.Generator().manual_seed(0)
    return [fid(train[torch.randperm(len(train), generator=shuffled)[:count]]) for _ in range(DRAWS)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def say(text: str) -> None:
    """Progress: one line on standard error that each next one replaces; silent when that is not a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
