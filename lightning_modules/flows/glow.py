"""Glow: a multi-scale flow of images with learned invertible 1x1 convolutions."""

import lightning as L

from lightning_modules.flows import common as likelihood
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record


class Glow(L.LightningModule):
    """Minimises E[-log p(y)], log p(y) = log N(f(y); 0, I) + log |det df/dy|, f steps of flow at several scales.

    A step is a scale and shift set by the first batch, an invertible 1x1 convolution, and a coupling by a convolutional
    network; between scales 2x2 pixels become channels, and half of the channels leave. Images y are dequantised by
    uniform noise. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W), H and W divisible by 2^scales; filled in from the data.
        levels: grey levels; filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        class_conditional: whether the density is p(x | label).
        scales: how many times pixels become channels.
        steps: of flow at each scale.
        channels: width of the convolutional networks.
        depth: their hidden layers.
        dropout: probability of dropping one of their channels.
        coupling: "affine" or "spline".
        bins: of a spline.
        bound: of an affine coupling's log-scale; half the interval of a spline.
        checkerboards: couplings by checkerboard masks before the first scale, as in Real NVP.
        base: "normal" or "logistic".
        alpha: of images, how near the base's quantiles come to 0 and 1; see `zoo.flows.marginals`.
        pooling: 0 to learn the pixels' histograms from equal bins; else they start with the training images' counts,
            and that many of all pixels together; see there.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.
        compile: whether to run the couplings through `torch.compile`.

    References:
        Kingma and Dhariwal 2018, arXiv:1807.03039, table 1 and figure 2; 001_7af9247201bdf7d9.txt, section 4.
    """

    paper = "Kingma and Dhariwal 2018, arXiv:1807.03039"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        scales: int = 2,
        steps: int = 8,
        channels: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        coupling: str = "affine",
        bins: int = 8,
        bound: float = 3.0,
        checkerboards: int = 0,
        base: str = "normal",
        alpha: float = 1e-3,
        pooling: float = 0.0,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = likelihood.density(self, "glow")

    def setup(self, stage: str) -> None:
        """As `likelihood.fit_statistics`, if `pooling` is above 0."""
        if self.hparams["pooling"] > 0:
            likelihood.fit_statistics(self, stage)

    training_step = likelihood.training_step
    validation_step = likelihood.validation_step
    test_step = likelihood.test_step
    configure_optimizers = adamw
    configure_callbacks = record
