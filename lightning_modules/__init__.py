"""One LightningModule per algorithm, which connects the mathematics of `zoo` to the Trainer."""

from lightning_modules.autoregressive.autoregressive import Autoregressive
from lightning_modules.classifier import Classifier
from lightning_modules.diffusion.classifier_free import ClassifierFree
from lightning_modules.diffusion.classifier_guidance import ClassifierGuidance
from lightning_modules.diffusion.consistency import ConsistencyModel
from lightning_modules.diffusion.ddim import DDIM
from lightning_modules.diffusion.ddpm import DDPM
from lightning_modules.diffusion.score_matching import ScoreMatching
from lightning_modules.energy.gsn import GSN
from lightning_modules.energy.rbm import RBM
from lightning_modules.flows.cnf import CNF
from lightning_modules.flows.glow import Glow
from lightning_modules.flows.nice import NICE
from lightning_modules.flows.realnvp import RealNVP
from lightning_modules.rl.off_policy.ddpg import DDPG
from lightning_modules.rl.off_policy.dqn import DQN
from lightning_modules.rl.off_policy.sac import SAC
from lightning_modules.rl.off_policy.td3 import TD3
from lightning_modules.rl.on_policy.a3c import A3C
from lightning_modules.rl.on_policy.impala import IMPALA
from lightning_modules.rl.on_policy.policy_gradient import PolicyGradient
from lightning_modules.rl.on_policy.ppo import PPO
from lightning_modules.rl.on_policy.trpo import TRPO
from lightning_modules.rl.tabular.tabular import Tabular
from lightning_modules.sequences.language_model import LanguageModel
from lightning_modules.sequences.transformer import Transformer
from lightning_modules.teams.value_decomposition import ValueDecomposition
from lightning_modules.vae.vae import VAE
from lightning_modules.vae.vq_prior import VQPrior
from lightning_modules.vae.vqvae import VQVAE

__all__ = [
    "A3C",
    "CNF",
    "DDIM",
    "DDPG",
    "DDPM",
    "DQN",
    "GSN",
    "IMPALA",
    "NICE",
    "PPO",
    "RBM",
    "SAC",
    "TD3",
    "TRPO",
    "VAE",
    "VQVAE",
    "Autoregressive",
    "Classifier",
    "ClassifierFree",
    "ClassifierGuidance",
    "ConsistencyModel",
    "Glow",
    "LanguageModel",
    "PolicyGradient",
    "RealNVP",
    "ScoreMatching",
    "Tabular",
    "Transformer",
    "VQPrior",
    "ValueDecomposition",
]
