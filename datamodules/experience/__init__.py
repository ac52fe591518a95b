"""Experience: environments, collection, replay, evaluation episodes."""

from datamodules.experience.module import Experience
from datamodules.experience.off_policy import Replay

__all__ = ["Experience", "Replay"]
