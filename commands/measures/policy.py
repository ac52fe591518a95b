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


def _made_by(environment: str) -> str:
    """The packages on whose versions a return depends, as `gymnasium 1.4.0, mujoco 3.2`."""
    import gymnasium as gym

    entry = str(gym.spec(environment).entry_point)
    packages = ["gymnasium", *(package for package in ("mujoco", "box2d") if f".{package}" in entry)]
    return ", ".join(f"{package} {version(package)}" for package in packages)
