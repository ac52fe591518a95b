"""What the verbs that play a policy share: its environment, its returns, the film on its card."""

import importlib
import os
import re
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import CLIP, describe
from checkpoints.locate import find
from commands.drawing.films import filming
from commands.models import require
from zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from commands.measures.common import Metrics

RETURN = "mean_return"
EPISODES = 100  # of the protocol, from seeds 0 to 99
CLIP_WIDTH, CLIP_BYTES = 160, 290_000  # of the film on a card, so that it stays small
CLIP_EPISODES = 11  # of the evaluation seeds, from which the film shows the median


def import_environments(module: str | None) -> None:
    """Imports the module of a user that registers environments: the only way in which a name leads to an import.

    Raises:
        UserError: if there is no such module, or it cannot be imported.
    """
    if module is None:
        return
    if not re.fullmatch(r"[\w.]+", module):
        raise UserError(f"--env-module must be the name of a module, as in `import NAME`, got {module!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"--env-module {module!r} cannot be imported: {one_line(str(error))}") from None


def load_policy(model: str, device: str, environment: str | None = None) -> tuple[Any, str, dict[str, Any]]:
    """A policy, and the name and arguments of the environment to play it in.

    Raises:
        UserError: if the model is no policy, or the environment's sizes are not those of the policy.
    """
    described = describe(find(model))
    require(described, "rollout", model)
    given: dict[str, Any] = described.data.get("arguments", {})
    name = environment or given.get("environment")
    arguments = {} if environment else given.get("environment_arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError(f"{model!r} does not say in which environment it plays: pass --environment")

    import checkpoints
    from datamodules.experience.environments import make, sizes

    env = make(name, arguments)
    there = sizes(name, env.observation_space, env.action_space)
    env.close()
    policy: Any = checkpoints.load(described, device)
    if policy.observation_shape != there.observation_shape:
        raise UserError(
            f"{model!r} takes observations of shape {policy.observation_shape}, but those of {name} are of shape "
            f"{there.observation_shape}"
        )
    if (policy.num_actions, len(policy.low)) != (there.num_actions, len(there.action_low)):
        raise UserError(f"{model!r} takes other actions than {name}: choose an environment with {policy.num_actions}")
    return policy, name, arguments


def measure_policy(model: str, device: str) -> "Metrics":
    """The return of one episode from each of the evaluation seeds 0 to 99, always the most likely action."""
    from commands.measures.common import Measurement
    from datamodules.experience.collector import play
    from datamodules.experience.environments import make

    policy, name, arguments = load_policy(model, device)
    played = play(policy, partial(make, name, arguments), range(EPISODES))
    where = f"one episode of {name} ({_made_by(name)})"
    how = f"{where} from each evaluation seed 0 to {EPISODES - 1}, always the most likely action"
    return {
        RETURN: Measurement.of(played.returns.tolist(), f"sum of rewards: {how}"),
        "mean_length": Measurement.of(played.lengths.tolist(), f"steps: {how}"),
    }


def _made_by(environment: str) -> str:
    """The packages on whose versions a return depends, as `gymnasium 1.4.0, mujoco 3.2`."""
    import gymnasium as gym

    entry = str(gym.spec(environment).entry_point)
    packages = ["gymnasium", *(package for package in ("mujoco", "box2d") if f".{package}" in entry)]
    return ", ".join(f"{package} {version(package)}" for package in packages)


def write_clip(new: Path, folder: Path) -> dict[str, Any]:
    """A film for the card of a policy, of the median episode of some: what results.json says of it.

    It shows the beginning of the episode at true speed, as much as fits into CLIP_BYTES.
    """
    from datamodules.experience.collector import play
    from datamodules.experience.environments import make

    policy, name, arguments = load_policy(str(folder), "cpu")
    returns = play(policy, partial(make, name, arguments), range(CLIP_EPISODES)).returns
    median = int(returns.argsort(stable=True)[CLIP_EPISODES // 2])
    with filming(new / CLIP, width=CLIP_WIDTH, most_bytes=CLIP_BYTES) as film:
        play(policy, partial(make, name, arguments, render=True), [median], on_step=film)
    return {"animation": CLIP}
