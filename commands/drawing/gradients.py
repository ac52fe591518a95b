"""Estimators of the policy gradient on a process where it is known, and the steps of four methods on a bandit."""

from pathlib import Path
from typing import Any

import torch

from checkpoints.whole import written_whole
from zoo.rl.on_policy.policy_gradient import Estimator
from zoo.rl.tabular.bandit import DELTA, METHODS, learn_bandit
from zoo.rl.tabular.gradients import corridor, estimated_gradients, exact_gradient, sample_episodes

GAMMA, EPISODES, BATCHES, UPDATES = 0.8, 4, 5_000, 60
LOGITS = ((0.3, -0.2), (0.1, 0.4), (-0.3, 0.2))
MONTE_CARLO = Estimator("monte-carlo", "none", discount_states=True, gamma=GAMMA)
BOOTSTRAP = MONTE_CARLO._replace(returns="n-step", baseline="value", n_step=1)
GAE = MONTE_CARLO._replace(returns="gae", baseline="value", gae_lambda=0.9)
# name -> the estimator, and what the exact V is multiplied by before it is used
ESTIMATORS = {
    "total return": (MONTE_CARLO._replace(reward_to_go=False, discount_states=False), 1.0),
    "reward-to-go": (MONTE_CARLO, 1.0),
    "reward-to-go without gamma^t": (MONTE_CARLO._replace(discount_states=False), 1.0),
    "minus the batch mean, own return included": (MONTE_CARLO._replace(baseline="mean"), 1.0),
    "minus the mean of the others": (MONTE_CARLO._replace(baseline="leave-one-out"), 1.0),
    "minus V": (MONTE_CARLO._replace(baseline="value"), 1.0),
    "minus half of V": (MONTE_CARLO._replace(baseline="value"), 0.5),
    "GAE(0.9), with half of V": (GAE, 0.5),
    "one step, with half of V": (BOOTSTRAP, 0.5),
    "one step, with V": (BOOTSTRAP, 1.0),
}
Numbers = list[dict[str, Any]]


def measure(draws: int, seed: int) -> Numbers:
    """Bias and variance of each estimator: of means over 4 episodes, in `draws` times 5,000 batches.

    `bias` is |mean - exact| / |exact|, `shrinkage` the length of the mean along the exact gradient, `largest_z` the
    largest of the entries' standard errors from the exact one, and `variance` that of one episode over |exact|^2.
    """
    logits, mdp = torch.tensor(LOGITS, dtype=torch.float64), corridor()
    policy = logits.softmax(1)
    exact, values = exact_gradient(mdp, logits, GAMMA).flatten(), mdp.values(policy, GAMMA)
    batches = BATCHES * draws
    episodes = sample_episodes(mdp, policy, EPISODES, batches, torch.Generator().manual_seed(seed))
    numbers = []
    for name, (how, share) in ESTIMATORS.items():
        found = estimated_gradients(episodes, logits, share * values, how).flatten(1)
        off, error = found.mean(0) - exact, found.std(0) / batches**0.5
        point = {
            "bias": off.norm() / exact.norm(),
            "standard_error": error.norm() / exact.norm(),
            "shrinkage": found.mean(0) @ exact / exact.square().sum(),
            "largest_z": (off / error).abs().max(),
            "variance": EPISODES * found.var(0).sum() / exact.square().sum(),
        }
        numbers.append({"estimator": name} | {key: float(value) for key, value in point.items()})
    return numbers


def write_gradients(path: Path, draws: int, seed: int) -> Numbers:
    """Writes the picture; the numbers behind it."""
    from matplotlib.figure import Figure

    numbers = measure(draws, seed)
    figure = Figure(figsize=(10, 7), layout="constrained")
    (bias, variance), (steps, rewards) = figure.subplots(2, 2, height_ratios=(1.2, 1))
    names, rows = [point["estimator"].replace("gamma^t", r"$\gamma^t$") for point in numbers], range(len(numbers))
    biased = ["C3" if point["largest_z"] > 5 else "C0" for point in numbers]
    bias.barh(rows, [100 * point["bias"] for point in numbers], color=biased)
    bias.errorbar([200 * point["standard_error"] for point in numbers], rows, fmt="|", color="k", markersize=9)
    bias.set(title="bias, % (mark: two standard errors)", yticks=rows, yticklabels=names)
    for row, point in zip(rows, numbers, strict=True):
        bias.annotate(f" z {point['largest_z']:.0f}" if point["largest_z"] > 5 else "", (100 * point["bias"], row),
                      va="center", fontsize=8)  # fmt: skip
    variance.barh(rows, [point["variance"] for point in numbers], color=biased)
    variance.set(title="variance of one episode", yticks=rows, yticklabels=[])
    for method in METHODS:
        learned = learn_bandit(method, UPDATES)
        steps.plot([point["kl"] for point in learned], label=method)
        rewards.plot([point["reward"] for point in learned], label=method)
        numbers.append({"method": method, "largest_kl": max(point["kl"] for point in learned)})
    steps.axhline(DELTA, color="0.6", linestyle=":", linewidth=1)
    steps.set(title="a bandit: KL(old || new) by update", yscale="log")
    steps.set_ylim(1e-6, 1)
    rewards.set(title="its expected reward by update")
    rewards.legend(frameon=False)
    for axes in (bias, variance):
        axes.invert_yaxis()
    for axes in (bias, variance, steps, rewards):
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=110)
    return numbers
