"""How policies are measured: by the returns of whole episodes."""

from functools import partial
from importlib.metadata import version
from typing import Any

from checkpoints.catalogue import Description
from commands.measures.common import Measurement, Metrics, Say

EPISODES = 100  # from seeds 0 to 99


def returns(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """The return of one episode from each of the evaluation seeds 0 to 99, always the most probable action."""
    from commands.policies import environment_of
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    name, arguments = environment_of(described, model)
    say(f"{EPISODES} episodes of {name}")
    played = play(model, partial(make, name, arguments), range(EPISODES))
    where = f"one episode of {name} ({_made_by(name)})"
    how = f"{where} from each evaluation seed 0 to {EPISODES - 1}, always the most probable action"
    return {
        "mean_return": Measurement.of(played.returns.tolist(), f"sum of rewards: {how}"),
        "mean_length": Measurement.of(played.lengths.tolist(), f"steps: {how}"),
    }


def exact(model: Any, described: Description, *, full: bool, say: Say) -> Metrics:
    """The expected return of a table, from the model of its environment; beside it, the episodes of `returns`."""
    from commands.policies import environment_of
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import MAX_STEPS
    from datamodules.experience.planning import mdp_of, time_limit
    from zoo.rl.tabular.mdp import epsilon_greedy, greedy

    name, arguments = environment_of(described, model)
    env = make(name, arguments)
    try:
        mdp, limit = mdp_of(name, env), time_limit(env) or MAX_STEPS
    finally:
        env.close()
    q, starts = model.q.detach().cpu().double(), int((mdp.start > 0).sum())
    how = (
        f"expected sum of rewards in {name} ({_made_by(name)}) over {starts} first state{'s' * (starts > 1)}, within "
        f"{limit:,} steps, computed from its model"
    )
    found = {"exact_return": (greedy(q), "greedy policy")}
    if model.epsilon:
        found["exploring_return"] = (
            epsilon_greedy(q, model.epsilon),
            f"epsilon-greedy policy, epsilon {model.epsilon:g}",
        )
    exactly = {
        metric: Measurement(mdp.expected_return(policy, limit=limit), 0.0, 1, f"{what}: {how}")
        for metric, (policy, what) in found.items()
    }
    return exactly | returns(model, described, full=full, say=say)


def _made_by(environment: str) -> str:
    """The packages on whose versions a return depends, as `gymnasium 1.4.0, mujoco 3.2`."""
    import gymnasium as gym

    entry = str(gym.spec(environment).entry_point)
    packages = ["gymnasium", *(package for package in ("mujoco", "box2d", "minatar") if f".{package}" in entry)]
    return ", ".join(f"{package} {version(package)}" for package in packages)
