"""The neural-ODE flow, trained by flow matching, by maximum likelihood, or by the one and then the other."""

import math
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from lightning_modules.flows import common as likelihood
from lightning_modules.trainer.log import log_rarely
from lightning_modules.trainer.optimizers import adamw
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.flows.cnf import check_trace
from zoo.flows.dequantise import dequantise
from zoo.flows.ode import Evaluations, Solver


class CNF(L.LightningModule):
    """Minimises E |v(t, (1 - t) z + t x) - (x - z)|^2 for `flow_matching_steps` steps, then E[-log p(x)].

    A step of flow matching needs no solve and no trace, so it costs a hundredth of a step of likelihood; a few steps of
    likelihood then take most of what it leaves. Validation and testing solve with `solver` to `tolerance` and take
    `trace`; steps of likelihood have a solver of their own.

    Args:
        image_shape: (C, H, W) of images; filled in from the data.
        num_features: D of points; filled in from the data.
        levels: grey levels of images, 0 of points; filled in from the data.
        num_classes: filled in from the data; used if `class_conditional`.
        class_conditional: whether the density is p(x | label).
        network: of the field, "mlp", or "unet" for images, which needs `trace` "hutchinson" and flow matching alone.
        hidden: width of the field's perceptron.
        depth: its hidden layers; 2 above a few dimensions, where the exact trace is cheapest.
        activation: "tanh", "silu" or "softplus".
        dropout: probability of dropping a hidden unit in flow matching.
        frequencies: features of time of the perceptron.
        channels, channel_multipliers, patch_size: of the U-Net, see `lightning_modules.DDPM`.
        solver: "dopri5", "dopri8", "bosh3", or "euler", "midpoint", "rk4" in `steps` equal steps.
        tolerance: of an adaptive solver.
        steps: of a fixed-step solver.
        trace: "exact" or "hutchinson".
        max_evaluations: of the field, after which a solve is given up.
        alpha: of images, how near the base's quantiles come to 0 and 1; see `zoo.flows.marginals`.
        pooling: of images, counts of all pixels' histogram in each pixel's own; see there.
        flow_matching_steps: steps of flow matching before likelihood; by default all of the run, 0 for none.
        coupling: of noise and data in flow matching: "independent" or "ot".
        training_solver: of steps of likelihood.
        training_steps: of it, if its steps are fixed. With too few, training learns to gain by their error: compare
            "train/loss" with "val/loss", whose solver is `solver`.
        training_trace: "exact" or "hutchinson".
        gradient: "backprop" through the solver's steps, or "adjoint" in constant memory.
        kinetic: weight of the integral of |v|^2 / D. jacobian: of |dv/dx|^2 / D. Both smooth the paths.
        learning_rate: of AdamW in flow matching, after the warm-up.
        likelihood_learning_rate: in steps of likelihood.
        learning_rate_schedule: "constant", or "cosine" to fall to 0 at the end of each of the two parts.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises from 0, in each part.
        pretrained: a MODEL (shipped name or folder) to start from; its architecture must be the one given here.

    References:
        Grathwohl et al. 2019, arXiv:1810.01367; Lipman et al. 2023, arXiv:2210.02747; Finlay et al. 2020,
        arXiv:2002.02798; 000_507b39bbaa34acda.txt, section 12.4 (with the sign of its trace corrected).
    """

    paper = "Grathwohl et al. 2019, arXiv:1810.01367; Lipman et al. 2023, arXiv:2210.02747"
    protocol = "likelihood"

    def __init__(
        self,
        image_shape: tuple[int, int, int] | None = None,
        num_features: int | None = None,
        levels: int = 0,
        num_classes: int | tuple[int, ...] = 0,
        class_conditional: bool = False,
        network: str = "mlp",
        hidden: int = 64,
        depth: int = 3,
        activation: str = "silu",
        dropout: float = 0.0,
        frequencies: int = 8,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2),
        patch_size: int = 1,
        solver: str = "dopri5",
        tolerance: float = 1e-5,
        steps: int = 16,
        trace: str = "exact",
        max_evaluations: int = 5_000,
        alpha: float = 1e-3,
        pooling: float = 0.0,
        flow_matching_steps: int | None = None,
        coupling: str = "independent",
        training_solver: str = "rk4",
        training_steps: int = 10,
        training_trace: str = "exact",
        gradient: str = "backprop",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        learning_rate: float = 3e-3,
        likelihood_learning_rate: float = 5e-4,
        learning_rate_schedule: str = "cosine",
        weight_decay: float = 0.0,
        warmup_steps: int = 20,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check(self.hparams)
        self.model = likelihood.density(self, "cnf")
        self.model.cnf.training_solver = Solver(
            training_solver, tolerance, training_steps, gradient, max_evaluations=max_evaluations
        )
        self.model.cnf.training_trace = training_trace
        self._solve: Evaluations | None = None

    setup = likelihood.fit_statistics
    test_step = likelihood.test_step
    configure_callbacks = record

    def training_step(self, batch: likelihood.Batch, batch_idx: int) -> Tensor:
        x, labels = likelihood.split(self.model, batch)
        if self.model.levels:
            x = dequantise(x, self.model.levels, torch.rand_like(x))
        if self._matches():
            loss = self.model.flow_matching_loss(x, labels, self.hparams["coupling"]).mean()
            log_rarely(self, "train/flow_matching_loss", loss)
            return loss
        values, self._solve = self.model.likelihood_loss(x, labels, self.hparams["kinetic"], self.hparams["jacobian"])
        loss = values.mean()
        log_rarely(self, "train/loss", loss)
        log_rarely(self, "train/evaluations", torch.tensor(float(self._solve.forward)))
        return loss

    def on_after_backward(self) -> None:
        if self._solve is not None and self.hparams["gradient"] == "adjoint":
            log_rarely(self, "train/evaluations_backward", torch.tensor(float(self._solve.backward)))
        self._solve = None

    def validation_step(self, batch: likelihood.Batch, batch_idx: int) -> None:
        likelihood.validation_step(self, batch, batch_idx)
        self.log("val/evaluations", float(self.model.cnf.evaluations), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a schedule of its own for each of the two parts."""
        optimizer = adamw(self)["optimizer"]
        total = float(self.trainer.estimated_stepping_batches)
        cosine = self.hparams["learning_rate_schedule"] == "cosine"
        switch = total if self.hparams["flow_matching_steps"] is None else self.hparams["flow_matching_steps"]
        ratio = self.hparams["likelihood_learning_rate"] / self.hparams["learning_rate"]

        def factor(done: int) -> float:
            peak, since, length = (
                (1.0, done, min(switch, total)) if done < switch else (ratio, done - switch, total - switch)
            )
            decay = (1 + math.cos(math.pi * min(1, since / max(1, length)))) / 2 if cosine else 1.0
            return peak * decay * min(1, (since + 1) / max(1, self.hparams["warmup_steps"]))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _matches(self) -> bool:
        steps = self.hparams["flow_matching_steps"]
        return steps is None or self.trainer.global_step < steps


def _check(options: Mapping[str, Any]) -> None:
    """Looks at the options that are the module's own."""
    for name in ("kinetic", "jacobian"):
        if not options[name] >= 0:
            raise UserError(f"model.{name} must be at least 0, got {options[name]}")
    if not options["likelihood_learning_rate"] > 0:
        raise UserError(f"model.likelihood_learning_rate must be positive, got {options['likelihood_learning_rate']}")
    if options["flow_matching_steps"] is not None and options["flow_matching_steps"] < 0:
        raise UserError(f"model.flow_matching_steps must be at least 0, got {options['flow_matching_steps']}")
    if options["network"] == "unet" and options["flow_matching_steps"] is not None:
        raise UserError(
            "model.flow_matching_steps must be left out with network 'unet': it is trained by matching alone"
        )
    if options["coupling"] == "ot" and options["class_conditional"]:
        raise UserError("model.coupling 'ot' pairs points across classes: take 'independent' with class_conditional")
    if options["coupling"] not in ("independent", "ot"):
        raise UserError(f"model.coupling must be 'independent' or 'ot', got {options['coupling']!r}")
    check_trace(options["training_trace"])
