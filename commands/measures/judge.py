"""The classifier in whose features samples are compared with real images."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import checkpoints
from commands.measures.common import DRAWS, mean
from zoo.errors import UserError
from zoo.metrics.samples import FeatureFID, nearest_distances, precision_recall

if TYPE_CHECKING:
    from torch import Tensor

JUDGES = {"Digits": "classifier-digits"}  # class of the data -> the model whose features the FID is taken in


def has_judge(data: Any) -> bool:
    """Whether a shipped classifier was trained on this data."""
    return type(data).__name__ in JUDGES


class Scores(NamedTuple):
    """What a judge finds in one set of samples; distances are medians to the nearest training image."""

    fid: float
    nearest: float
    precision: float
    recall: float
    read: list[float]  # 1 for each sample that is classified as the label asked for, else 0; empty if none was


class Judge:
    """The classifier in whose features samples are compared with the test images of its data.

    Attributes:
        name: of the shipped model.
        test, labels: the test split.
        baseline: the FID of as many training images, drawn `DRAWS` times. base: its mean.
        unseen: the median distance of a test image to its nearest training image.
    """

    def __init__(self, data: Any) -> None:
        if not has_judge(data):
            raise UserError(
                f"there is no judge of {type(data).__name__}: a classifier is shipped for {', '.join(JUDGES)}"
            )
        self.name = JUDGES[type(data).__name__]
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
        with torch.inference_mode():
            features = self._model.features(samples)
            read = [] if labels is None else (self._model.to_logits(features).argmax(1) == labels).double().tolist()
        nearest = nearest_distances(samples, self._train).median().item()
        return Scores(self._fid(samples), nearest, *precision_recall(self._features, features), read)


def fid_of_training_images(fid: FeatureFID, train: "Tensor", count: int) -> list[float]:
    """The FID of `count` training images, drawn `DRAWS` times: what a perfect model would have."""
    shuffled = torch.Generator().manual_seed(0)
    return [fid(train[torch.randperm(len(train), generator=shuffled)[:count]]) for _ in range(DRAWS)]
