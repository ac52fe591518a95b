"""Solving dy/dt = f(t, y): torchdiffeq's solvers, or one step size a row, with evaluations counted and bounded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import RowError, UserError
from zoo.flows.row_steps import StuckError, solve_rows

ADAPTIVE = ("dopri5", "dopri8", "bosh3")
FIXED = ("euler", "midpoint", "rk4")
GRADIENTS = ("backprop", "adjoint")
# (t, y (N, n), which rows of the batch these are) -> dy/dt (N, n), for t of shape () or (N,); rows None are all of them
Dynamics = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Solver:
    """How a differential equation is solved and differentiated.

    An adaptive method keeps the error of every entry of every sample in a step below tolerance * (1 + |y|): torchdiffeq
    would take the root mean square over the batch, in which one sample's error drowns.

    Args:
        method: adaptive "dopri5", "dopri8", "bosh3", or "euler", "midpoint", "rk4" in equal steps.
        tolerance: of an adaptive method, absolute and relative.
        steps: of a fixed-step method.
        gradient: "backprop" through the steps, whose memory grows with them, or "adjoint", a second solve backwards in
            constant memory, whose error is that of the tolerance.
        max_evaluations: after which a solve is given up; backwards it may take as many again.

    References:
        Dormand and Prince 1980; adjoint: Chen et al. 2018, arXiv:1806.07366, section 2.
    """

    method: str = "dopri5"
    tolerance: float = 1e-5
    steps: int = 16
    gradient: str = "backprop"
    max_evaluations: int = 5_000

    def __post_init__(self) -> None:
        if self.method not in ADAPTIVE + FIXED:
            raise UserError(f"solver must be one of {', '.join(ADAPTIVE + FIXED)}, got {self.method!r}")
        if not 0 < self.tolerance < 1:
            raise UserError(f"tolerance must be between 0 and 1, got {self.tolerance!r}")
        for name in ("steps", "max_evaluations"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.gradient not in GRADIENTS:
            raise UserError(f"gradient must be one of {', '.join(GRADIENTS)}, got {self.gradient!r}")

    def integrate(
        self,
        dynamics: Dynamics,
        y: Tensor,
        start: float,
        end: float,
        parameters: Sequence[Tensor] = (),
        each_row: bool = False,
    ) -> tuple[Tensor, "Evaluations"]:
        """y at time `end` of the solution through y (B, n) at time `start`, in either direction of time.

        Args:
            parameters: what an adjoint differentiates by besides y: every tensor that `dynamics` uses.
            each_row: whether an adaptive method chooses the steps of each row by itself, so that its solution does not
                depend on the other rows. Else the hardest row sets the steps of all, which suits training: a batch then
                has one time. Differentiated by "backprop".

        Raises:
            UserError: if the tolerance was not reached within `max_evaluations`, or the solution is not finite.
        """
        count = Evaluations(dynamics, self)
        if each_row and self.method in ADAPTIVE:
            try:
                y = solve_rows(count, y, start, end, self.method, self.tolerance)
            except StuckError as error:
                raise count.failure("the step underflowed", error.time, error.rows) from None
        else:
            y = self._integrate_batch(count, y, start, end, parameters)
        count.forward = count.total
        return y, count

    def _integrate_batch(
        self, count: "Evaluations", y: Tensor, start: float, end: float, parameters: Sequence[Tensor]
    ) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint  # here, since scipy comes with it

        times = torch.tensor([start, end], dtype=y.dtype, device=y.device)
        options: dict[str, Any] = {"grid_constructor": self._grid}
        if self.method in ADAPTIVE:
            # Else the last step runs over the end and is interpolated. Both signs, since the adjoint turns time round.
            options = {"norm": _largest, "step_t": torch.cat([times, -times]).unique()}
        settings = {"atol": self.tolerance, "rtol": self.tolerance, "method": self.method, "options": options}
        solved: Tensor
        try:
            if self.gradient == "adjoint":
                solved = odeint_adjoint(count, y, times, adjoint_params=tuple(parameters), **settings)[1]
            else:
                solved = odeint(count, y, times, **settings)[1]
        except AssertionError as error:  # the step underflowed, or the state is not finite
            raise count.failure(str(error).split(" tensor")[0].split(":")[0], count.time) from None
        return solved

    def _grid(self, _: Dynamics, __: Tensor, times: Tensor) -> Tensor:
        grid = torch.linspace(float(times[0]), float(times[-1]), self.steps + 1, dtype=times.dtype, device=times.device)
        grid[0], grid[-1] = times[0], times[-1]
        return grid


class Evaluations:
    """A dynamics that counts how often it is asked, and stops a solve that asks too often.

    Attributes:
        forward: evaluations of the solve. backward: those of its adjoint, so far.
    """

    def __init__(self, dynamics: Dynamics, solver: Solver) -> None:
        self.dynamics, self.solver = dynamics, solver
        self.total = self.forward = 0
        self.time = torch.tensor(torch.nan)

    @property
    def backward(self) -> int:
        return self.total - self.forward

    def __call__(self, t: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        self.time = t
        if self.total - self.forward >= self.solver.max_evaluations:
            raise self.failure("too many evaluations", t, rows)
        self.total += 1
        return self.dynamics(t, y, rows)

    def failure(self, reason: str, t: Tensor, rows: Tensor | None = None) -> UserError:
        """The error of a solve that is given up at times t, () or (N,), for some `rows` (N,) or for the whole batch."""
        solver = self.solver
        aim = f"reach its tolerance {solver.tolerance:g}" if solver.method in ADAPTIVE else f"take {solver.steps} steps"
        message = (
            f"solver {solver.method!r} could not {aim}: {reason} at t = {float(t.detach().view(-1)[0]):.4g} after "
            f"{self.total} evaluations of the velocity; raise the tolerance or max_evaluations, or train a smoother "
            "field: kinetic and Jacobian regularisation, weight decay"
        )
        if rows is None:
            return UserError(message)
        others = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        return RowError(int(rows[0]), f"{others}: {message}; or leave such rows out")


def _largest(y: Tensor) -> Tensor:
    return y.abs().max()
