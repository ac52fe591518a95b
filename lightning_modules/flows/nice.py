"""Non-linear independent components estimation: a flow of additive couplings."""

import lightning as L

from lightning_modules.flows import common as likelihood
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record


class NICE(L.LightningModule):
    """Minimises E[-log p(x)], log p(x) = log p_base(f(x)) + sum s, f additive couplings and then z = y exp(s).

    A coupling adds to half of the entries what a multilayer perceptron makes of the other half; it preserves volume,
    and only the diagonal scale s changes it. Points keep their units; images are dequantised by uniform noise, and
    flattened. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W) of images; filled in from the data.
        num_features: D of points; filled in from the data.
        levels: grey levels of images, 0 of points; filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        class_conditional: whether the density is p(x | label).
        couplings: how many, each moving the half that the one before kept.
        hidden: width of the perceptrons.
        depth: their hidden layers.
        dropout: probability of dropping a hidden unit.
        base: "logistic" or "normal".
        alpha: of images, how near the base's quantiles come to 0 and 1; see `zoo.flows.marginals`.
        pooling: of images, counts of all pixels' histogram in each pixel's own at the start; see there.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.
        compile: whether to run the couplings through `torch.compile`.

    References:
        Dinh et al. 2014, arXiv:1410.8516, equations 2 to 6; 000_507b39bbaa34acda.txt, section 12.
    """

    paper = "Dinh et al. 2014, arXiv:1410.8516"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_features: int | None = None,
        levels: int = 0,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        couplings: int = 4,
        hidden: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        base: str = "logistic",
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
        self.model = likelihood.density(self, "nice")

    setup = likelihood.fit_statistics
    training_step = likelihood.training_step
    validation_step = likelihood.validation_step
    test_step = likelihood.test_step
    configure_optimizers = adamw
    configure_callbacks = record
