"""One file per algorithm: a LightningModule that wires mathematics from `zoo` to the Trainer."""

from lightning_modules.classifier import Classifier
from lightning_modules.ddim import DDIM
from lightning_modules.ddpm import DDPM

__all__ = ["DDIM", "DDPM", "Classifier"]
