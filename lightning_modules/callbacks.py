"""The callbacks that a config names, by the path under which configs know them."""

from lightning_modules.trainer.callbacks import EMA, SamplePictures

__all__ = ["EMA", "SamplePictures"]
