"""The density of a velocity field, from plain arguments, with both of its objectives."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.flows.chain import Chain
from zoo.flows.cnf import CNF, DATA, NOISE, Field, flow_matching_loss
from zoo.flows.layers import Flatten, Standardise
from zoo.flows.marginals import Marginals, Probit
from zoo.flows.model import Flow
from zoo.flows.ode import Evaluations, Solver
from zoo.flows.velocity import VelocityMLP
from zoo.flows.velocity_unet import VelocityUNet

NETWORKS = ("mlp", "unet")


class ContinuousFlow(Flow):
    """A `Flow` whose last bijection is a `CNF`; what precedes it has nothing to learn."""

    def __init__(
        self, shape: tuple[int, ...], layers: list[nn.Module], cnf: CNF, levels: int, num_classes: int
    ) -> None:
        super().__init__(shape, Chain([*layers, cnf]), levels=levels, num_classes=num_classes)
        self._before = len(layers)

    @property
    def cnf(self) -> CNF:
        return self.bijection.bijections[self._before]  # type: ignore[index, return-value]

    @property
    def is_estimate(self) -> bool:
        """Whether log-densities are unbiased estimates and not exact: those of a Hutchinson trace."""
        return self.cnf.trace == "hutchinson"

    @property
    def evaluations(self) -> int:
        """How often the latest pass evaluated the field."""
        return int(self.cnf.evaluations)

    def log_prob(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        tolerance: float | None = None,
    ) -> Tensor:
        """As `Flow.log_prob`.

        Args:
            generator: of the random signs behind a Hutchinson trace; see `CNF`.
            tolerance: of an adaptive solver, instead of the model's own.
        """
        y, ladj = self._to_field(x)
        with torch.autocast(y.device.type, enabled=False):
            way = self.cnf.transport(
                y, DATA, NOISE, self._context(labels, len(x)), generator=generator, tolerance=tolerance
            )
        return self._base_log_prob(way.points) + (ladj + way.ladj)

    def log_likelihood(
        self,
        x: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: int = 32,
        tolerance: float | None = None,
    ) -> Tensor:
        """As `Flow.log_likelihood`, to the solver's tolerance. With a Hutchinson trace, of images

            1/K sum_k log p((k + u_k) / L) - D log L

        whose mean is the usual bound for any K: log-densities that are estimates cannot be averaged as densities.

        Args:
            x: points (B, D), or images (B, C, H, W) in [-1, 1] on the grid of grey levels.
            labels: (B,) or (B, 1) classes, of a conditional density.
            generator: source of the noise u of images, and of the random signs behind a Hutchinson trace.
            draws: of images, K: draws of the noise behind each estimate; more give a tighter bound.
            tolerance: absolute and relative error of the solver, instead of the model's own; below about 1e-5 only
                float64 gains digits.

        Raises:
            UserError: as `Flow.log_likelihood`, and naming the rows for which the solver does not reach its tolerance.
        """
        return self._log_likelihood(lambda y: self.log_prob(y, labels, generator, tolerance), x, generator, draws)

    def flow_matching_loss(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        coupling: str = "independent",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B,) values of `zoo.flows.cnf.flow_matching_loss`, for x as in `log_prob`."""
        y, _ = self._to_field(x)
        return flow_matching_loss(self.cnf.field, y, self._context(labels, len(x)), coupling, generator)

    def likelihood_loss(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Evaluations]:
        """(-log p + kinetic * int |v|^2 dt + jacobian * int |dv/dx|_F^2 dt) / D, (B,), and the solve's evaluations.

        Args:
            x, labels: as in `log_prob`.
            generator: of the random signs behind a Hutchinson trace and the Jacobian's norm.

        References:
            Finlay et al. 2020, arXiv:2002.02798, eq. 9.
        """
        y, ladj = self._to_field(x)
        context = self._context(labels, len(x))
        regularise = kinetic > 0 or jacobian > 0
        way = self.cnf.transport(y, DATA, NOISE, context, regularise=regularise, generator=generator)
        loss = -(self._base_log_prob(way.points) + way.ladj + ladj) / self.dims
        if way.kinetic is not None and way.jacobian is not None:
            loss = loss + kinetic * way.kinetic + jacobian * way.jacobian
        return loss, way.evaluations

    def _to_field(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, *shape) in the field's coordinates (B, D), and the log-determinant of getting there (B,)."""
        return self._way_to_field()(self._entering(x))

    def _points(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """As in `Flow`, without the trace along the way, which costs more than the velocity."""
        y = self.cnf.path(z.to(self.like), self._context(labels, len(z)), inverse=True, frames=1)[-1]
        return self._way_to_field().inverse(y)[0]

    def _way_to_field(self) -> Chain:
        layers: list[nn.Module] = list(self.bijection.bijections)[: self._before]  # type: ignore[arg-type]
        return Chain(layers)


def cnf(
    shape: tuple[int, ...],
    levels: int = 0,
    num_classes: int = 0,
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
) -> ContinuousFlow:
    """Points standardised, or images through their pixels' histograms, carried to noise along a field.

    Args:
        shape: (D,), or of images (C, H, W), which are flattened.
        levels, num_classes: see `Flow`.
        network: "mlp", or "unet" of images, whose trace is "hutchinson".
        hidden, depth, activation, dropout, frequencies: see `VelocityMLP`. Above a few dimensions take depth 2, whose
            exact trace costs one more product whatever D is.
        channels, channel_multipliers, patch_size, dropout: see `VelocityUNet`.
        solver, tolerance, steps, max_evaluations: see `zoo.flows.ode.Solver`.
        trace: "exact" or "hutchinson"; see `CNF`.
        alpha, pooling: of images, see `zoo.flows.marginals`.

    Raises:
        UserError: naming an option that does not fit.

    References:
        Grathwohl et al. 2019, FFJORD, arXiv:1810.01367.
    """
    if network not in NETWORKS:
        raise UserError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
    if network == "unet" and (not levels or trace != "hutchinson"):
        raise UserError(f"network 'unet' is for images with trace 'hutchinson', got the shape {shape}, trace {trace!r}")
    field: Field
    if network == "unet":
        image_shape: Any = shape
        field = VelocityUNet(image_shape, channels, channel_multipliers, patch_size, dropout, num_classes)
    else:
        field = VelocityMLP(math.prod(shape), hidden, depth, num_classes, activation, dropout, frequencies)
    layers: list[nn.Module] = [Standardise(shape)]
    if levels:
        # flow matching would gain by histograms that bring all images together, so these keep what they start with
        layers = [Marginals(shape, levels, pooling).requires_grad_(False), Probit(alpha)]
    layers += [Flatten(shape)] * (len(shape) > 1)
    flow = CNF(field, Solver(solver, tolerance, steps, max_evaluations=max_evaluations), trace)
    return ContinuousFlow(shape, layers, flow, levels, num_classes)
