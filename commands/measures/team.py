"""How teams are measured: by the returns of whole episodes."""

import importlib.util
from importlib.metadata import version
from typing import Any

from checkpoints.catalogue import Description
from commands.measures.common import Measurement, Metrics, Say

EPISODES = 100  # from seeds 0 to 99
MEANING = {
    "sum": "rewards summed over the agents",
    "mean": "rewards averaged over the agents",
    "shared": "the reward that all agents get",
}


def team(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """The return of one episode from each of the evaluation seeds 0 to 99, every agent greedy; of each agent, if they
    differ."""
    from commands.teams import stage_of
    from datamodules.teams.episodes import ROWS, evaluate

    stage = stage_of(described, model)
    say(f"{EPISODES} episodes of {stage.name}")
    envs = stage.envs(ROWS)
    try:
        returns, lengths, of_agents = evaluate(envs, model, range(EPISODES), reward=stage.reward)
    finally:
        envs.close()
    how = f"one episode of {stage.name} ({_made_by(stage.name)}) from each evaluation seed 0 to {EPISODES - 1}"
    how = f"{how}, each agent greedy in its own utilities"
    metrics = {
        "mean_return": Measurement.of(returns.tolist(), f"{MEANING[stage.reward]}, summed over steps: {how}"),
        "mean_length": Measurement.of(lengths.tolist(), f"steps: {how}"),
    }
    if bool((of_agents != of_agents[:, :1]).any()):
        for i, each in enumerate(of_agents.T):
            metrics[f"mean_return_agent_{i}"] = Measurement.of(each.tolist(), f"sum of the agent's own rewards: {how}")
    return metrics


def _made_by(environment: str) -> str:
    """The package on whose version a return depends, as `mpe2 1.1.1`."""
    package = {"matrix": "numpy", "mpe2": "mpe2", "Foraging": "lbforaging"}.get(environment.split("/")[0].split("-")[0])
    package = package if package and importlib.util.find_spec(package) else "gymnasium"
    return f"{package} {version(package)}"
