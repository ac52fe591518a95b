"""The networks in whose features samples are compared with real images, and what they find in a set of samples."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import checkpoints
from commands.measures.common import DRAWS, mean
from zoo.errors import UserError
from zoo.metrics.samples import features_of, frechet_distance, nearest_distances, precision_recall
from zoo.metrics.spectrum import spectrum_ratio
from zoo.nn.random_features import RandomFeatures

if TYPE_CHECKING:
    from torch import Tensor

# class of the data -> the model whose features the FID is taken in
JUDGES = {
    "Digits": "classifier-digits",
    "MNIST5k": "classifier-mnist5k",
    "BinaryMNIST5k": "classifier-mnist5k",  # trained on grey ones
}


def has_judge(data: Any) -> bool:
    """Whether a shipped classifier reads this data."""
    return type(data).__name__ in JUDGES


class Scores(NamedTuple):
    """What is found in one set of samples; distances are medians to the nearest training image."""

    fid: float
    random_fid: float
    spectrum_ratio: float
    nearest: float
    precision: float
    recall: float
    read: list[float]  # 1 for each sample that is classified as the requested label, else 0; empty if none was


class Judge:
    """A classifier, and a network of random weights, in whose features samples are compared with the test images.

    Args:
        data: an image data set that has a classifier.
        by_label: whether samples are asked for with the labels of the test images. Training images are drawn alike,
            with these labels or any. How often each class comes can alone double the FID of a few hundred images.

    Attributes:
        by_label: as given. name: of the shipped classifier.
        test, labels: the test split.
        baseline: the FID of as many training images, drawn `DRAWS` times. base: its mean.
        random_base: the mean of the same in the features of the random network.
        validation: the FID of the validation images, of which there are num_validation.
        unseen: the median distance of a test image to its nearest training image.
        among: the median distance of a training image to the nearest other one.
    """

    def __init__(self, data: Any, *, by_label: bool = False) -> None:
        if not has_judge(data):
            raise UserError(
                f"there is no judge of {type(data).__name__}: a classifier is shipped for {', '.join(JUDGES)}"
            )
        self.by_label = by_label
        self.name = JUDGES[type(data).__name__]
        self._model: Any = None  # no module to mypy, which knows nothing of the classifier's own methods
        self._model = checkpoints.load(self.name)
        self._random = RandomFeatures(data.image_shape)
        self._train, self.test, self.labels = data.images("train"), data.images("test"), data.labels("test")
        self._real, self._random_real = (features_of(network, self.test) for network in (self._model, self._random))
        labels = data.labels("train") if by_label else None
        chosen = [rows_like(self.labels, labels, len(self._train), draw) for draw in range(DRAWS)]
        features = features_of(self._model, self._train)
        self.baseline = [frechet_distance(features[rows], self._real) for rows in chosen]
        self.base = mean(self.baseline)
        features = features_of(self._random, self._train)
        self.random_base = mean([frechet_distance(features[rows], self._random_real) for rows in chosen])
        validation = data.images("val")
        self.validation = frechet_distance(features_of(self._model, validation), self._real)
        self.num_validation = len(validation)
        self.unseen = nearest_distances(self.test, self._train).median().item()
        self.among = nearest_distances(self._train[: len(self.test)], self._train, among=True).median().item()

    def __call__(self, samples: "Tensor", labels: "Tensor | None" = None) -> Scores:
        features = features_of(self._model, samples)
        read: list[float] = []
        if labels is not None:
            with torch.inference_mode():
                read = (self._model.to_logits(features).argmax(1) == labels).double().tolist()
        return Scores(
            frechet_distance(features, self._real),
            frechet_distance(features_of(self._random, samples), self._random_real),
            spectrum_ratio(samples, self.test),
            nearest_distances(samples, self._train).median().item(),
            *precision_recall(self._real, features),
            read,
        )


def rows_like(wanted: "Tensor", labels: "Tensor | None", count: int, seed: int) -> "Tensor":
    """Rows of a set of `count`, as many as are wanted, without repetition: with the wanted labels, or any if None.

    Of a class with fewer rows than wanted, all.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if labels is None:
        return order[: len(wanted)]
    mine = labels[order]
    return torch.cat([order[mine == label][: int((wanted == label).sum())] for label in wanted.unique()])
