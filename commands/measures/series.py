"""How models of series are measured: by forecasts from every step of the test part."""

from typing import Any

import torch
from torch import Tensor

from checkpoints.catalogue import Description
from commands.measures.common import Measurement, Metrics, Say, data_for, device_of
from zoo.metrics.forecast import crps

SAMPLES = 200  # of each forecast
ORIGINS = 16  # forecasts at once


def forecast(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """CRPS of samples given the past, beside that of a seasonal naive forecast and of the climate; coverage."""
    data = data_for(model, described)
    drawn, truth = forecasts(model, data, say)
    naive, climate = seasonal_naive(data), climatology(data)
    low, high = drawn.quantile(torch.tensor([0.1, 0.9], dtype=drawn.dtype), dim=-1)
    inside = ((low <= truth) & (truth <= high)).double().mean(1)
    how = (
        f"{data.horizon} steps ahead from each of {len(truth)} steps of the test part, {data.unit}; error over these, "
        "which overlap"
    )
    same = "baseline: the training values of the same step of the season"
    before = "baseline: the value one season before, plus what such a forecast misses by in the training part"
    return {
        "crps": Measurement.of(crps(drawn, truth).mean(1).tolist(), f"{SAMPLES} samples of each forecast, {how}"),
        "crps_climatology": Measurement.of(crps(climate, truth).mean(1).tolist(), f"{same}; {how}"),
        "crps_seasonal_naive": Measurement.of(crps(naive, truth).mean(1).tolist(), f"{before}; {how}"),
        "coverage_80": Measurement.of(
            inside.tolist(), f"share of values between the 10 % and 90 % quantiles of the samples, {how}"
        ),
    }


def forecasts(
    model: Any, data: Any, say: Say = lambda _: None, origins: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Samples (origins, horizon, SAMPLES) given the past of test windows, and the values (origins, horizon)."""
    windows = data.windows("test")
    chosen = torch.arange(len(windows)) if origins is None else torch.tensor(origins)
    generator, found = torch.Generator().manual_seed(0), []
    for rows in chosen.split(ORIGINS):
        say(f"forecast {rows[0]} of {len(windows)}")
        past = windows[rows, :, : data.context].repeat_interleave(SAMPLES, 0).to(device_of(model))
        drawn = model.sample(len(past), generator=generator, prefix=past)[:, 0, data.context :, 0]
        found.append(drawn.cpu().unflatten(0, (-1, SAMPLES)).transpose(1, 2))
    return data.to_values(torch.cat(found)), truths(data)[chosen]


def truths(data: Any) -> Tensor:
    """What is to be forecast, (origins, horizon)."""
    first, end = data.bounds("test")
    return data.values()[first:end].unfold(0, data.horizon, 1)


def seasonal_naive(data: Any) -> Tensor:
    """x_{t + h - k season}, the latest known of its season, plus each of the same differences in the training part."""
    values, (first, end), last = data.values(), data.bounds("test"), data.bounds("train")[1]
    found = []
    for origin in range(first, end - data.horizon + 1):
        steps = []
        for h in range(data.horizon):
            lag = data.season * -(-(h + 1) // data.season)
            errors = values[lag:last] - values[: last - lag]
            # of every lag as many, so that they form a tensor
            even = torch.linspace(0, len(errors) - 1, SAMPLES).long()
            steps.append(values[origin + h - lag] + errors.sort().values[even])
        found.append(torch.stack(steps))
    return torch.stack(found)


def climatology(data: Any) -> Tensor:
    """The training values of the same step of the season, (origins, horizon, seasons)."""
    values, (first, end), last = data.values(), data.bounds("test"), data.bounds("train")[1]
    whole = values[: last - last % data.season].unflatten(0, (-1, data.season))
    steps = torch.arange(first, end).unfold(0, data.horizon, 1) % data.season
    return whole.T[steps]
