"""One file per algorithm: a LightningModule that wires mathematics from `zoo` to the Trainer."""

from lightning_modules.classifier import Classifier
from lightning_modules.classifier_free import ClassifierFree
from lightning_modules.classifier_guidance import ClassifierGuidance
from lightning_modules.ddim import DDIM
from lightning_modules.ddpm import DDPM
from lightning_modules.ppo import PPO
from lightning_modules.score_matching import ScoreMatching

__all__ = ["DDIM", "DDPM", "PPO", "Classifier", "ClassifierFree", "ClassifierGuidance", "ScoreMatching"]
