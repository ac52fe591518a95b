"""What methods of value decomposition make of a matrix game: Q_tot of every joint action beside the payoff."""

from pathlib import Path
from typing import Any

import torch

from checkpoints.whole import written_whole
from commands.measures.common import say

METHODS = {
    "vdn": "VDN",
    "qmix": "QMIX",
    "qtran": "QTRAN",
    "cw-qmix": "CW-QMIX",
    "ow-qmix": "OW-QMIX",
    "qplex": "QPLEX",
    "resq": "ResQ",
}
GAME, UPDATES, COLUMNS = "qtran", 4_000, 4


def write_payoffs(path: Path, seeds: int, first: int) -> list[dict[str, Any]]:
    """Trains each method on QTRAN's game, with tables for utilities, and draws a heat map of Q_tot for each.

    Args:
        seeds: how many, of which the first is drawn. first: the first of them.

    Returns:
        Of each method, the payoff of the greedy joint action of each seed, and the optimum.
    """
    from zoo.teams.payoffs import payoff
    from zoo.teams.tabular import fit_tables

    table = payoff(GAME)
    optimum = table.max().item()
    panels: list[tuple[str, torch.Tensor, Any]] = [("the payoff", table, None)]
    numbers: list[dict[str, Any]] = []
    for method, label in METHODS.items():
        say(f"{label}: {UPDATES:,} updates")
        fit = fit_tables(method, table.repeat(seeds, 1, 1), range(first, first + seeds), UPDATES)
        found = fit.payoffs.tolist()
        title = f"{label}: {found.count(optimum)} of {seeds} find {optimum:g}"
        panels.append((title, fit.total[0], fit.actions[0].tolist()))
        numbers.append({"method": method, "payoffs": found, "optimum": optimum})
    _draw(path, panels, float(table.abs().max()))
    return numbers


def _draw(path: Path, panels: list[tuple[str, torch.Tensor, Any]], largest: float) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(2.5 * COLUMNS, 2.75 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.axis("off")
    for ax, (title, table, actions) in zip(axes, panels, strict=False):
        ax.imshow(table.numpy(), cmap="RdBu", vmin=-largest, vmax=largest)
        ax.set_title(title, fontsize=11)
        ax.set_xticks(range(table.shape[1]))
        ax.set_yticks(range(table.shape[0]))
        ax.tick_params(length=0, labelsize=8)
        for i, row in enumerate(table.tolist()):
            for j, value in enumerate(row):
                dark = abs(value) > 0.6 * largest
                ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9, color="white" if dark else "black")
        if actions is not None:
            corner = (actions[1] - 0.46, actions[0] - 0.46)
            ax.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor="#2e8b57", linewidth=3))
    figure.supxlabel("action of the second agent", fontsize=9)
    figure.supylabel("action of the first agent", fontsize=9)
    with written_whole(path) as beside:
        figure.savefig(beside, format="png", dpi=110)
