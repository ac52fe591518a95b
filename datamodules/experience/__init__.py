"""Experience: environments, collection, evaluation episodes."""

from datamodules.experience.module import Experience

__all__ = ["Experience"]
