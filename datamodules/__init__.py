"""Data sets: LightningDataModules that provide the sizes which a model needs."""

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
