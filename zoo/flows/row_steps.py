"""Runge-Kutta pairs that choose a step for each row, so that a row's solution does not depend on its batch.

    k_i = f(t + c_i h, y + h sum_j a_ij k_j),    y' = y + h sum_i b_i k_i,    error = h sum_i e_i k_i

A row takes its step if max |error| / (tolerance_h (1 + max(|y|, |y'|))) <= 1, the maximum over its entries; its next h
is h * 0.9 ratio^(-1/order), at least a fifth and at most ten times the last. A row that has arrived leaves the batch.
tolerance_h is a tenth of the tolerance: the errors of a few dozen steps add up to about the tolerance.

References:
    Dormand and Prince 1980; Hairer, Norsett and Wanner 1993, Solving ordinary differential equations I, section II.4.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor, Tensor], Tensor]  # times (N,), states (N, n), which rows (N,) -> dy/dt (N, n)
SHARE = 0.1  # of the tolerance, for a step
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


class StuckError(Exception):
    """Some rows cannot go on: their steps have become too small for the floating-point numbers.

    Attributes:
        rows: their numbers (N,). time: where they stand (N,).
    """

    def __init__(self, rows: Tensor, time: Tensor) -> None:
        super().__init__()
        self.rows, self.time = rows, time


def solve_rows(field: Field, y: Tensor, start: float, end: float, method: str, tolerance: float) -> Tensor:
    """y (B, n) at time `end` of the solutions through y at time `start`, in either direction of time.

    Args:
        method: "dopri5", "dopri8" or "bosh3". tolerance: absolute and relative.

    Raises:
        StuckError: if the tolerance cannot be reached, or a solution is not finite.
    """
    from torchdiffeq._impl.odeint import SOLVERS  # for the coefficients; here, since scipy comes with it

    pair = SOLVERS[method]
    nodes, error_weights = pair.tableau.alpha.tolist(), pair.tableau.c_error.tolist()
    matrix = [row.tolist() for row in pair.tableau.beta]  # its last row is b: the last stage is f at y'
    length, sign = abs(end - start), 1.0 if end > start else -1.0
    tolerance = max(SHARE * tolerance, 8 * torch.finfo(y.dtype).eps)

    def slope(passed: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return sign * field(start + sign * passed, y, rows)

    rows, passed, arrived = torch.arange(len(y), device=y.device), y.new_zeros(len(y)), torch.empty_like(y)
    k = slope(passed, y, rows)
    h = _first_step(slope, y, k, rows, pair.order, tolerance)
    while len(rows):
        last = h >= length - passed
        h = torch.where(last, length - passed, h)
        stages = [k]
        for node, row in zip(nodes, matrix, strict=True):
            new = y + h[:, None] * _combined(row, stages)
            stages.append(slope(passed + node * h, new, rows))
        error = h[:, None] * _combined(error_weights, stages)
        ratio = _largest(error, tolerance * (1 + torch.maximum(y.abs(), new.abs()))).detach().nan_to_num(torch.inf)
        accepted = ratio <= 1
        stuck = ~accepted & ~(passed + SHRINK * h > passed)  # h is NaN where y is
        if bool(stuck.any()):
            raise StuckError(rows[stuck], (start + sign * passed)[stuck])
        y, k = torch.where(accepted[:, None], new, y), torch.where(accepted[:, None], stages[-1], k)
        passed = torch.where(accepted, passed + h, passed)
        h = h * (SAFETY * ratio ** (-1 / pair.order)).clamp(SHRINK, GROW)
        there = accepted & last
        if bool(there.any()):
            arrived = arrived.index_copy(0, rows[there], y[there])
            rows, passed, h, y, k = (value[~there] for value in (rows, passed, h, y, k))
    return arrived


def _first_step(slope: Field, y: Tensor, k: Tensor, rows: Tensor, order: int, tolerance: float) -> Tensor:
    """Hairer's first guess (N,): the step at which an Euler step and its derivative change y by a hundredth."""
    scale = tolerance * (1 + y.abs())
    size, speed = _largest(y, scale), _largest(k, scale)
    guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    bend = _largest(slope(guess, y + guess[:, None] * k, rows) - k, scale) / guess
    most = torch.maximum(speed, bend)
    second = torch.where(most <= 1e-15, (1e-3 * guess).clamp(min=1e-6), (0.01 / most) ** (1 / (order + 1)))
    return torch.minimum(100 * guess, second).detach()


def _combined(weights: list[float], stages: list[Tensor]) -> Tensor:
    parts = [weight * stage for weight, stage in zip(weights, stages, strict=False) if weight]
    return sum(parts[1:], parts[0])


def _largest(values: Tensor, scale: Tensor) -> Tensor:
    return (values.abs() / scale).amax(1)
