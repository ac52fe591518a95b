"""Forecasts of a series: quantiles of samples given the past, beside what was observed."""

from pathlib import Path
from typing import Any

import torch

from checkpoints.catalogue import Description
from checkpoints.whole import written_whole
from commands.measures.common import data_for, say
from commands.measures.series import forecasts
from zoo.metrics.forecast import crps

PANELS = 3  # forecasts, evenly spaced over the test part
SHOWN = 3  # horizons of the past that are drawn
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def write_forecast(path: Path, model: Any, described: Description) -> list[dict[str, Any]]:
    """Writes the picture; of each panel the step at which the forecast begins, its quantiles, and its mean CRPS."""
    from matplotlib.figure import Figure

    data = data_for(model, described)
    first, end = data.bounds("test")
    count = end - first - data.horizon + 1
    origins = [(2 * i + 1) * (count - 1) // (2 * PANELS) for i in range(PANELS)]
    drawn, truth = forecasts(model, data, say, origins)
    values = data.values()
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    numbers = []
    for axes, origin, samples, came in zip(figure.subplots(1, PANELS), origins, drawn, truth, strict=True):
        start = first + origin
        past = values[max(0, start - SHOWN * data.horizon) : start]
        levels = samples.quantile(torch.tensor(QUANTILES, dtype=samples.dtype), dim=-1)
        steps = range(data.horizon)
        axes.fill_between(steps, levels[0], levels[4], color="C0", alpha=0.2, linewidth=0, label="5 to 95 %")
        axes.fill_between(steps, levels[1], levels[3], color="C0", alpha=0.4, linewidth=0, label="25 to 75 %")
        axes.plot(steps, levels[2], color="C0", label="median")
        axes.plot(range(-len(past), data.horizon), torch.cat([past, came]), color="k", linewidth=1, label="observed")
        axes.axvline(-0.5, color="0.6", linestyle=":", linewidth=1)
        axes.set(xlabel=f"steps from step {start} of the series")
        axes.spines[["top", "right"]].set_visible(False)
        score = crps(samples, came).mean().item()
        numbers.append({"step": start, "crps": score, "quantiles": levels.T.tolist(), "values": came.tolist()})
    figure.axes[0].set_ylabel(data.unit)
    figure.axes[0].legend(frameon=False, fontsize=8)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=110)
    return numbers
