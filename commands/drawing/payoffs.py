"""What methods of value decomposition make of a matrix game: Q_tot of every joint action beside the payoff."""

from pathlib import Path
from typing import Any

import torch

from checkpoints.catalogue import Description
from checkpoints.whole import written_whole
from commands.measures.common import say
from zoo.errors import UserError

METHODS = {
    "vdn": "VDN",
    "qmix": "QMIX",
    "qtran": "QTRAN",
    "cw-qmix": "CW-QMIX",
    "ow-qmix": "OW-QMIX",
    "qplex": "QPLEX",
    "resq": "ResQ",
}
UPDATES, COLUMNS = 5_000, 4


def write_payoffs(path: Path, described: Description, seed: int) -> list[dict[str, Any]]:
    """Trains each method anew on the game of a model, from a seed, and draws a heat map for each.

    Returns:
        The game, and of each method the joint action that its agents find, and its payoff.

    Raises:
        UserError: if the model's environment is no matrix game of one step.
    """
    from zoo.teams.payoffs import PAYOFFS, payoff
    from zoo.teams.tabular import fit_tables

    name = str(described.data.get("arguments", {}).get("environment"))
    game = name.removeprefix("matrix/")
    if game == name or game not in PAYOFFS:
        raise UserError(f"figure payoff draws matrix games of one step, but {described.folder.name!r} plays {name}")
    table = payoff(game)
    panels, numbers = [(f"payoff of {game}", table, None)], []
    for method, label in METHODS.items():
        say(f"{label}: {UPDATES:,} updates")
        fit = fit_tables(method, table[None], [seed], UPDATES)
        found, actions = fit.payoffs.item(), fit.actions[0].tolist()
        panels.append((f"{label}: finds {found:g}", fit.total[0], actions))  # type: ignore[arg-type]
        numbers.append({"method": method, "actions": actions, "payoff": found, "optimum": table.max().item()})
    _draw(path, panels, float(table.abs().max()))
    return [{"game": game}, *numbers]


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
