"""What double estimators, dueling, prioritised replay and potentials are for, each on the smallest such process."""

import statistics
from pathlib import Path
from typing import Any

import torch

from checkpoints.whole import written_whole
from zoo.rl.tabular.lessons import dueling_errors, left_share, overestimation, shaped_returns, updates_to_solve

ACTIONS, DRAWS = (2, 4, 8, 16, 32), 20_000
EPISODES, RUNS = 300, 100
STATES, SEEDS = (2, 4, 6, 8, 10), 3
MANY_ACTIONS, UPDATES = (5, 10, 20), 1000
SHAPED = {"none": "no potential", "helps": "a potential, 0 at the ends", "breaks": "the same, 10 at the ends"}
Numbers = list[dict[str, Any]]


def write_lessons(path: Path, draws: int, seed: int) -> Numbers:
    """Writes the picture; the numbers behind it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    (bias, left, corridor), (replay, shaping, final) = figure.subplots(2, 3)
    numbers: Numbers = []
    generator = torch.Generator().manual_seed(seed)
    found = [overestimation(m, DRAWS * draws, generator) for m in ACTIONS]
    numbers += [
        {"lesson": "overestimation", "actions": m, "max": one, "double": other, "exact": (m - 1) / (m + 1)}
        for m, (one, other) in zip(ACTIONS, found, strict=True)
    ]
    bias.plot(ACTIONS, [(m - 1) / (m + 1) for m in ACTIONS], "k--", label="(m - 1) / (m + 1)")
    bias.plot(ACTIONS, [one for one, _ in found], "o", label="the largest estimate")
    bias.plot(ACTIONS, [other for _, other in found], "s", label="another estimate of that action")
    bias.set(title="actions worth 0, estimated with errors in -1 ... 1", xlabel="m, actions", ylabel="expected value")

    for double, name in ((False, "Q-learning"), (True, "double Q-learning")):
        shares = left_share(double, EPISODES, RUNS * draws)
        numbers.append({"lesson": "maximisation bias", "method": name, "left": shares})
        left.plot(range(1, EPISODES + 1), shares, label=name, linewidth=1)
    left.axhline(0.05, color="k", linestyle="--", linewidth=1, label="the best possible, epsilon / 2")
    left.set(title="left, where ten noisy rewards of mean -0.1 are", xlabel="episode", ylabel="share of runs")

    for prioritized, name in ((False, "drawn uniformly"), (True, "in proportion to |delta|")):
        medians = [statistics.median(updates_to_solve(n, prioritized, seed + k) for k in range(SEEDS)) for n in STATES]
        numbers.append({"lesson": "blind cliffwalk", "replay": name, "states": STATES, "updates": medians})
        replay.plot([2 ** (n + 1) - 2 for n in STATES], medians, "o-", label=name)
    replay.set(title="updates until Q is known, blind cliffwalk", xlabel="transitions in the buffer", ylabel="updates")
    replay.set(xscale="log", yscale="log")

    for kind, name in SHAPED.items():
        returns = shaped_returns(kind, 100, 15 * draws)
        numbers.append({"lesson": "shaping", "potential": name, "returns": returns})
        shaping.plot(range(1, 101), returns, label=name)
    shaping.set(title="return of the greedy policy, unshaped", xlabel="episode", ylabel="return")

    for dueling, name in ((False, "Q, one table"), (True, "V + A - mean A, two tables")):
        errors = [dueling_errors(m, dueling, UPDATES, 10 * draws, seed) for m in MANY_ACTIONS]
        numbers.append(
            {"lesson": "dueling", "tables": name, "actions": MANY_ACTIONS, "errors": [e[-1] for e in errors]}
        )
        corridor.plot(errors[1], label=name)
        final.plot(MANY_ACTIONS, [e[-1] for e in errors], "o-", label=name)
    corridor.set(
        title=f"policy evaluation in a corridor, {MANY_ACTIONS[1]} actions",
        xlabel="update",
        yscale="log",
        ylim=(1, 100),
    )
    final.set(title=f"after {UPDATES:,} updates", xlabel="actions, of which all but two do nothing", yscale="log")
    for axes in (corridor, final):
        axes.set(ylabel="squared error of Q")
    for axes in (bias, left, corridor, replay, shaping, final):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=100)
    return numbers
