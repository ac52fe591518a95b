"""Real-valued non-volume-preserving transformations: flows of affine or spline couplings."""

import lightning as L

from lightning_modules.flows import common as likelihood
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record


class RealNVP(L.LightningModule):
    """Minimises E[-log p(x)], log p(x) = log N(f(x); 0, I) + log |det df/dx|, f a chain of couplings.

    A coupling moves half of the entries by an affine map or a spline that a multilayer perceptron makes of the other
    half. Points keep their units; images are dequantised by uniform noise. They are flattened, or with `scales` keep
    their form: the networks are then convolutional, and checkerboards and channels are halved in turn, at several
    resolutions. Average the weights with `lightning_modules.callbacks.EMA`.

    Args:
        image_shape: (C, H, W) of images; filled in from the data.
        num_features: D of points; filled in from the data.
        levels: grey levels of images, 0 of points; filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        class_conditional: whether the density is p(x | label).
        coupling: "affine" or "spline".
        couplings: how many, each moving the half that the one before kept.
        hidden: width of the perceptrons.
        depth: their hidden layers.
        residual: whether these add to what they are given.
        dropout: probability of dropping a hidden unit.
        bins: of a spline.
        bound: of an affine coupling's log-scale; half the interval of a spline.
        linear: whether a learned linear map precedes each coupling.
        actnorm: whether a learned scale and shift, set by the first batch, precedes each coupling.
        base: "normal" or "logistic".
        alpha: of images, how near the base's quantiles come to 0 and 1; see `zoo.flows.marginals`.
        pooling: of images, counts of all pixels' histogram in each pixel's own at the start; see there.
        scales: of images, how many times pixels become channels, with convolutional couplings at each scale; 0 for
            perceptrons. Then `couplings` counts those of each mask, and `hidden`, `depth`, `residual` and `dropout`
            are of the convolutional networks.
        learning_rate: of AdamW, after the warm-up.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of the run.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.
        compile: whether to run the couplings through `torch.compile`.

    References:
        Dinh et al. 2016, arXiv:1605.08803, equations 2 to 8; Durkan et al. 2019, arXiv:1906.04032, for splines;
        000_507b39bbaa34acda.txt, section 12.
    """

    paper = "Dinh et al. 2016, arXiv:1605.08803"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_features: int | None = None,
        levels: int = 0,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        coupling: str = "affine",
        couplings: int = 8,
        hidden: int = 128,
        depth: int = 2,
        residual: bool = False,
        dropout: float = 0.0,
        bins: int = 8,
        bound: float = 3.0,
        linear: bool = False,
        actnorm: bool = False,
        base: str = "normal",
        alpha: float = 1e-3,
        pooling: float = 0.0,
        scales: int = 0,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        weight_decay: float = 0.01,
        warmup_steps: int = 200,
        pretrained: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = likelihood.density(self, "realnvp")

    setup = likelihood.fit_statistics
    training_step = likelihood.training_step
    validation_step = likelihood.validation_step
    test_step = likelihood.test_step
    configure_optimizers = adamw
    configure_callbacks = record
