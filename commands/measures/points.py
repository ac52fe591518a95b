"""How densities of the plane are measured: against the true density of data that is known in closed form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from checkpoints.catalogue import Description
from commands.drawing.flows import in_batches
from commands.measures.common import Measurement, Metrics, Say, data_for

GRID, REACH = 800, 6.0  # cells a side of the integral, standard deviations to each side


def density(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """NLL less that of the truth on the test points, where the truth is known; the NLL; of the plane the integral.

    The difference has the mean of NLL - entropy, but the same points score both densities, so that most of the noise
    of the NLL cancels.
    """
    data = data_for(model, described)
    metrics = scores(model, data, say)
    evaluations = getattr(model, "evaluations", None)  # of the field of a continuous flow
    if model.shape == (2,):
        say("integral")
        mass = integral(in_batches(model), data.mean, data.std)
        text = (
            f"sum of p over {GRID} x {GRID} cells, {REACH:g} standard deviations of the data to each side of its mean"
        )
        metrics["integral"] = Measurement(mass, 0.0, 1, text)
    if evaluations is not None:
        metrics["network_evaluations"] = Measurement(
            evaluations, 0.0, 1, "evaluations of the field that log p of the last 10,000 test points takes"
        )
    return metrics


def scores(model: Any, data: Any, say: Say) -> Metrics:
    """NLL less that of the truth on the test points, where the truth is known, and the NLL."""
    points = data.points("test")
    say("test points")
    learned = in_batches(model)(points).double()
    if not hasattr(data, "log_density"):
        how = f"{len(points)} test rows"
        normal = normal_log_prob(points.double(), data.points("train").double())
        baseline = f"baseline: a normal distribution with the mean and covariance of the training rows, {how}"
        return {
            "nll_nats": Measurement.of((-learned).tolist(), f"mean of -log p on {how}"),
            "nll_of_a_normal_nats": Measurement.of((-normal).tolist(), baseline),
        }
    say("true density")
    true = data.log_density(points)
    how = f"{len(points)} test points of {data.density}"
    excess = Measurement.of(
        (true - learned).tolist(),
        f"mean of log p_true - log p on {how}: an estimate of KL(p_true, p), which is NLL less the entropy "
        f"{data.entropy:.4f}, paired by points",
    )
    nll = Measurement.of((-learned).tolist(), f"mean of -log p on {how}")
    return {"nll_minus_floor_nats": excess, "nll_nats": nll}


def normal_log_prob(points: Tensor, fitted: Tensor) -> Tensor:
    """log N(x; mean, covariance), (B,), with the moments of other points (N, D): their covariance may be singular."""
    mean, std = fitted.mean(0), fitted.std(0)
    z = (fitted - mean) / std
    correlation = z.T @ z / len(z) + 1e-9 * torch.eye(len(std), dtype=z.dtype)
    normal = MultivariateNormal(torch.zeros_like(mean), correlation)
    return normal.log_prob((points - mean) / std) - std.log().sum()


def integral(log_prob: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> float:
    """Midpoint sum of a density of the plane over REACH standard deviations to each side of the mean."""
    steps = 2 * REACH * std.double() / GRID
    middle = (torch.arange(GRID, dtype=torch.float64) - (GRID - 1) / 2)[:, None] * steps + mean
    total = 0.0
    for rows in middle[:, 0].float().split(25):
        total += log_prob(torch.cartesian_prod(rows, middle[:, 1].float())).double().exp().sum().item()
    return total * steps.prod().item()
