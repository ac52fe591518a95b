"""One file per algorithm: a LightningModule that wires mathematics from `zoo` to the Trainer."""

from lightning_modules.classifier import Classifier
from lightning_modules.classifier_free import ClassifierFree
from lightning_modules.classifier_guidance import ClassifierGuidance
from lightning_modules.cnf import CNF
from lightning_modules.ddim import DDIM
from lightning_modules.ddpm import DDPM
from lightning_modules.glow import Glow
from lightning_modules.nice import NICE
from lightning_modules.ppo import PPO
from lightning_modules.realnvp import RealNVP
from lightning_modules.score_matching import ScoreMatching

__all__ = [
    "CNF",
    "DDIM",
    "DDPM",
    "NICE",
    "PPO",
    "Classifier",
    "ClassifierFree",
    "ClassifierGuidance",
    "Glow",
    "RealNVP",
    "ScoreMatching",
]
