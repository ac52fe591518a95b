"""Data sets: LightningDataModules that provide the sizes which a model needs, each imported when it is asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.densities import Densities, Points
    from datamodules.experience.asynchronous import AsynchronousExperience
    from datamodules.experience.module import Experience
    from datamodules.experience.off_policy import Replay
    from datamodules.experience.tabular import TabularExperience
    from datamodules.folder import ImageFolder
    from datamodules.images import CIFAR10, MNIST, BinaryMNIST5k, Digits, FashionMNIST, MNIST5k
    from datamodules.latents import Latents
    from datamodules.sequences import Sequences
    from datamodules.series import Series
    from datamodules.shapes import Shapes
    from datamodules.teams.replay import TeamReplay
    from datamodules.text import Text

__all__ = [
    "CIFAR10",
    "MNIST",
    "AsynchronousExperience",
    "BinaryMNIST5k",
    "Densities",
    "Digits",
    "Experience",
    "FashionMNIST",
    "ImageFolder",
    "Latents",
    "MNIST5k",
    "Points",
    "Replay",
    "Sequences",
    "Series",
    "Shapes",
    "TabularExperience",
    "TeamReplay",
    "Text",
]

_FILES = {
    "densities": ("Densities", "Points"),
    "experience.asynchronous": ("AsynchronousExperience",),
    "experience.module": ("Experience",),
    "experience.off_policy": ("Replay",),
    "experience.tabular": ("TabularExperience",),
    "folder": ("ImageFolder",),
    "images": ("CIFAR10", "MNIST", "BinaryMNIST5k", "Digits", "FashionMNIST", "MNIST5k"),
    "latents": ("Latents",),
    "sequences": ("Sequences",),
    "series": ("Series",),
    "shapes": ("Shapes",),
    "teams.replay": ("TeamReplay",),
    "text": ("Text",),
}


def __getattr__(name: str) -> Any:
    for file, classes in _FILES.items():
        if name in classes:
            found = getattr(importlib.import_module(f"datamodules.{file}"), name)
            globals()[name] = found  # as if it had been imported here, which is how jsonargparse names it
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
