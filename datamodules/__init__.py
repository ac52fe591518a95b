"""Data: each a LightningDataModule that knows the sizes a model needs from it."""

from datamodules.densities import Densities, Points
from datamodules.experience import Experience, Replay
from datamodules.folder import ImageFolder
from datamodules.images import CIFAR10, MNIST, Digits, FashionMNIST
from datamodules.latents import Latents
from datamodules.shapes import Shapes

__all__ = [
    "CIFAR10",
    "MNIST",
    "Densities",
    "Digits",
    "Experience",
    "FashionMNIST",
    "ImageFolder",
    "Latents",
    "Points",
    "Replay",
    "Shapes",
]
