"""The neural-ODE flow: x is carried along a velocity field, and its log-density changes by minus the divergence."""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.flows.ode import ADAPTIVE, Evaluations, Solver
from zoo.flows.velocity import VelocityMLP
from zoo.flows.velocity_unet import VelocityUNet
from zoo.random import normal, per_row

Field = VelocityMLP | VelocityUNet
TRACES = ("exact", "hutchinson")
NOISE, DATA = 0.0, 1.0  # times


class Transported(NamedTuple):
    """Where points went.

    Attributes:
        points: as given. ladj: log |det| of the map (B,). evaluations: of the field, counted.
        kinetic: integral of |v|^2 along the way, per dimension (B,). jacobian: of |(dv/dx) e|^2, per dimension (B,);
            None each unless asked for.
    """

    points: Tensor
    ladj: Tensor
    evaluations: Evaluations
    kinetic: Tensor | None = None
    jacobian: Tensor | None = None


class CNF(nn.Module):
    """dx/dt = v(t, x) carries noise at t = 0 to data at t = 1;   log p(x_1) = log p(x_0) - int_0^1 tr(dv/dx) dt.

    `forward` goes from data to noise, `inverse` from noise to data. In training both use `training_solver` and
    `training_trace`, if set. In evaluation an adaptive solver chooses steps for each row, so that the answer for a row
    does not depend on the rest of the batch.

    Args:
        field: v.
        solver: how a path is solved.
        trace: "exact", or "hutchinson": e . (dv/dx) e with random signs e, one draw a solve. Then log_prob is an
            unbiased estimate; in evaluation the signs are the same in every call, unless a generator draws others.

    References:
        Chen et al. 2018, arXiv:1806.07366, theorem 1; Grathwohl et al. 2019, arXiv:1810.01367, eqs. 4 to 8;
        000_507b39bbaa34acda.txt, section 12.4 (with the sign of its trace corrected).
    """

    def __init__(self, field: Field, solver: Solver | None = None, trace: str = "exact") -> None:
        super().__init__()
        self.field = field
        self.solver, self.trace = solver or Solver(), check_trace(trace)
        self.training_solver: Solver | None = None
        self.training_trace: str | None = None
        self.evaluations = 0  # of the field in the latest solve

    def extra_repr(self) -> str:
        solver = self.solver
        accuracy = f"tolerance={solver.tolerance:g}" if solver.method in ADAPTIVE else f"steps={solver.steps}"
        return f"solver={solver.method}, {accuracy}, trace={self.trace}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transport(x, DATA, NOISE, context)[:2]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transport(z, NOISE, DATA, context)[:2]

    def transport(
        self,
        x: Tensor,
        start: float,
        end: float,
        context: Tensor | None = None,
        *,
        regularise: bool = False,
        generator: torch.Generator | None = None,
        tolerance: float | None = None,
    ) -> Transported:
        """Points (B, ...) at time `start` carried to time `end`, in either direction.

        Args:
            context: (B, C). regularise: whether to integrate the kinetic energy and the Jacobian's norm too.
            generator: of the random signs, which are drawn once and stay for the whole solve.
            tolerance: of an adaptive solver, instead of its own.

        Raises:
            UserError: if the solver could not reach its tolerance.

        References:
            Finlay et al. 2020, arXiv:2002.02798, eqs. 8 and 10 (the regularisers).
        """
        solver = (self.training_solver if self.training else None) or self.solver
        solver = solver if tolerance is None else replace(solver, tolerance=tolerance)
        exact = ((self.training_trace if self.training else None) or self.trace) == "exact"
        points, dims = x.flatten(1), x[0].numel()
        signs = self._signs(points, generator) if regularise or not exact else None

        def dynamics(t: Tensor, state: Tensor, rows: Tensor | None = None) -> Tensor:
            given, probe = _of(rows, context), _of(rows, signs)
            v, divergence, product = self.field.change(t, state[:, :dims], given, probe, exact)
            columns = [v, divergence[:, None]]
            if regularise:
                assert product is not None
                columns += [v.square().mean(1, keepdim=True), product.square().mean(1, keepdim=True)]
            return torch.cat(columns, 1)

        state = torch.cat([points, points.new_zeros(len(x), 3 if regularise else 1)], 1)
        parameters = [*self.field.parameters(), *([] if context is None else [context])]
        state, count = solver.integrate(dynamics, state, start, end, parameters, each_row=not self.training)
        self.evaluations = count.forward
        moved, ladj = state[:, :dims].reshape(x.shape), state[:, dims]
        if not regularise:
            return Transported(moved, ladj, count)
        # backwards in time the integrals come out negative
        return Transported(moved, ladj, count, state[:, dims + 1].abs(), state[:, dims + 2].abs())

    def _signs(self, points: Tensor, generator: torch.Generator | None) -> Tensor:
        """Random signs of the shape of the points, (B, D)."""
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)  # a density has one value, also where that is an estimate
        return torch.where(normal(points.shape, per_row(generator), points.device) < 0, -1.0, 1.0).to(points)

    @torch.no_grad()
    def path(self, x: Tensor, context: Tensor | None = None, inverse: bool = False, frames: int = 16) -> list[Tensor]:
        """x and where it is at `frames` later times, evenly spaced: from data to noise, or back with `inverse`."""

        def dynamics(t: Tensor, state: Tensor, rows: Tensor | None = None) -> Tensor:
            return self.field.velocity(t, state, _of(rows, context))

        start, end = (NOISE, DATA) if inverse else (DATA, NOISE)
        times = torch.linspace(start, end, frames + 1, dtype=torch.float64).tolist()
        solver = replace(self.solver, steps=-(-self.solver.steps // frames), gradient="backprop")
        points = [x]
        for before, after in pairwise(times):
            state, _ = solver.integrate(dynamics, points[-1].flatten(1), before, after, each_row=not self.training)
            points.append(state.reshape(x.shape))
        return points


def flow_matching_loss(
    field: Field,
    x: Tensor,
    context: Tensor | None = None,
    coupling: str = "independent",
    generator: torch.Generator | None = None,
) -> Tensor:
    """mean over D of |v(t, (1 - t) z + t x) - (x - z)|^2, a value a sample: least where v carries N(0, I) to the data.

    Times are stratified over the batch, t_i uniform in [i / B, (i + 1) / B): the same mean, less noise.

    Args:
        x: data in the field's coordinates (B, ...), in random order. context: (B, C).
        coupling: which z belongs to an x: "independent", or "ot", the pairing within the batch of the least sum of
            |x - z|^2: it straightens the paths. Given a context it would bend what is learned, so it is refused.

    References:
        Lipman et al. 2023, arXiv:2210.02747, eqs. 20 to 23 (sigma_min = 0); coupling: Tong et al. 2024,
        arXiv:2302.00482, section 3.2.4.
    """
    x = x.flatten(1)
    z = normal(x.shape, generator, x.device).to(x)
    if coupling == "ot" and context is None:
        z = z[_assignment(x, z)]
    elif coupling != "independent":
        raise UserError(f"coupling must be 'independent', or 'ot' without labels, got {coupling!r}")
    uniform = torch.rand(len(x), generator=generator, device=x.device if generator is None else generator.device)
    t = (torch.arange(len(x), device=x.device) + uniform.to(x)) / len(x)
    predicted = field(t, torch.lerp(z, x, t[:, None]), context)
    return (predicted - (x - z)).square().mean(1)


def _assignment(x: Tensor, z: Tensor) -> Tensor:
    """Which z each x is paired with, at the least sum of squared distances; O(B^3)."""
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x.detach(), z).square()
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=x.device)


def _of(rows: Tensor | None, values: Tensor | None) -> Tensor | None:
    """The values of some rows; of all of them if `rows` is None."""
    return values if rows is None or values is None else values[rows]


def check_trace(trace: str) -> str:
    """The name of a trace, if it is one."""
    if trace not in TRACES:
        raise UserError(f"trace must be one of {', '.join(TRACES)}, got {trace!r}")
    return trace
