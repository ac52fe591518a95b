"""What the verbs that play a policy share: its environment, and the film on its card."""

import importlib
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CLIP, Description
from checkpoints.locate import find
from zoo.errors import UserError, one_line

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
        UserError: if the model is no policy, or as `environment_of`.
    """
    from checkpoints.catalogue import describe
    from checkpoints.store import load
    from commands.models import require

    described = describe(find(model))
    require(described, "rollout", model)
    policy: Any = load(described, device)
    return policy, *environment_of(described, policy, environment)


def environment_of(described: Description, policy: Any, environment: str | None = None) -> tuple[str, dict[str, Any]]:
    """The name and arguments of the environment that a policy was trained in, or of another that fits it.

    Raises:
        UserError: if none is known, or its sizes are not those of the policy.
    """
    from datamodules.experience.environments import check_environment, make, spaces_of

    data = described.data.get("arguments", {})
    name = environment or data.get("environment")
    arguments = {} if environment else data.get("environment_arguments") or {}
    model = described.folder.name
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError(f"{model!r} does not say in which environment it plays: name it with --environment")
    env = make(name, arguments)
    try:
        there = spaces_of(name, env.observation_space, env.action_space)
        check_environment(name, env)
    finally:
        env.close()
    ours, theirs = policy.observation_shape, there["observation_shape"]
    if ours != theirs:
        raise UserError(f"{model!r} takes observations of shape {ours}, but those of {name} are of shape {theirs}")
    for part in ("num_actions", "action_low", "action_high"):
        if policy.spaces[part] != there[part]:
            raise UserError(f"{model!r} has {part} {policy.spaces[part]}, but {name} has {there[part]}")
    return name, arguments


def write_clip(new: Path, folder: Path) -> dict[str, Any]:
    """A film for the card of a policy, of the median episode of some: what results.json says of it.

    It shows the beginning of the episode at true speed, as much as fits into CLIP_BYTES.
    """
    from commands.drawing.films import filming
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    policy, name, arguments = load_policy(str(folder), "cpu")
    returns = play(policy, partial(make, name, arguments), range(CLIP_EPISODES)).returns
    median = int(returns.argsort(stable=True)[CLIP_EPISODES // 2])
    with filming(new / CLIP, width=CLIP_WIDTH, most_bytes=CLIP_BYTES) as film:
        play(policy, partial(make, name, arguments, render=True), [median], on_step=film)
    return {"animation": CLIP}
