"""Denoising diffusion probabilistic models."""

import lightning as L
from torch import Tensor

from lightning_modules.diffusion import common
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError


class DDPM(L.LightningModule):
    """Minimises E |target - network(sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t)|^2 over t uniform in 1 ... T.

    Validation reports the same loss at fixed times and noise, so that its curve is smooth. Testing reports the
    variational bound in bits per dimension. Prediction turns latents into images by T ancestral steps (few and
    deterministic steps: `DDIM`). `lightning_modules.callbacks.EMA` averages the weights.

    Args:
        image_shape: (C, H, W); filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        levels: grey levels of the data, filled in from it; only the bound of `test` needs them.
        class_conditional: whether the network is conditioned on the label.
        channels: width of the first level of the U-Net.
        channel_multipliers: width of each level, as a multiple of `channels`.
        blocks_per_level: residual blocks a level on the way down.
        attention_levels: levels with self-attention, 0 the finest.
        patch_size: side of the pixel blocks that the first level takes as channels; 2 makes a step 4 times as cheap.
        dropout: probability of dropping a feature in a residual block.
        schedule: "cosine" or "linear" noise.
        num_timesteps: T.
        parameterization: what the network predicts: "v", "eps" or "x0".
        augmentation: strength of the random rotation, scaling, shear and shift of each training image, 0 for none.
            It keeps a network from memorising a small data set.
        augmentation_probability: share of the training images that are augmented.
        augmentation_labels: whether the network is told how each image was moved, so that its samples are not
            (arXiv:2206.00364, appendix F.2); by default if there is augmentation.
        min_snr_gamma: if given, weights the loss by min(SNR, gamma) on x_0 instead of "simple".
        learning_rate: of AdamW, after the warm-up.
        weight_decay: of AdamW.
        learning_rate_schedule: "constant", or "cosine", which decays to 0 at the end of the run.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.
        compile: whether to run the network through `torch.compile`; by default in runs of 5,000 steps and more, if a
            compiler is found. Names of weights stay the same.

    References:
        Ho et al. 2020, arXiv:2006.11239, algorithms 1 and 2; 000_507b39bbaa34acda.txt, section 13.
    """

    trains_in_bfloat16 = True  # by default, where the hardware has units for it: docs/benchmarks.md

    paper = "Ho et al. 2020, arXiv:2006.11239"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int | tuple[int, ...] = 0,
        levels: int = 0,
        class_conditional: bool = False,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        blocks_per_level: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        patch_size: int = 1,
        dropout: float = 0.1,
        schedule: str = "cosine",
        num_timesteps: int = 1000,
        parameterization: str = "v",
        augmentation: float = 0.0,
        augmentation_probability: float = 1.0,
        augmentation_labels: bool | None = None,
        min_snr_gamma: float | None = None,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if class_conditional and not num_classes:
            raise UserError("model.class_conditional is true, but the data has no classes")
        self.model = common.denoiser(self, num_classes=num_classes if class_conditional else 0)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Latents x_T (B, C, H, W) and their indices (B,) -> images by T ancestral steps."""
        return common.draw(self.model, batch, sampler="ddpm", steps=self.model.process.num_timesteps)

    on_fit_start = common.compile_if_long
    training_step = common.training_step
    validation_step = common.validation_step
    test_step = common.test_step
    configure_optimizers = adamw
    configure_callbacks = record
