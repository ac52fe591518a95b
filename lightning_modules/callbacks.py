"""Callbacks by the import path that configs use."""

from lightning_modules.trainer.callbacks import EMA, SamplePictures

__all__ = ["EMA", "SamplePictures"]
