"""What the verbs that play a team share: its environment, its episodes, and the picture or film on its card."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.catalogue import CLIP, Description
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from datamodules.teams.frame import TeamEnvs

FILMED = (0, 5, 10)  # evaluation seeds of the film on a card, from which it shows the median


class Stage(NamedTuple):
    """Where a team plays: the name and arguments of its environment, its limit of steps, how its reward is made."""

    name: str
    arguments: dict[str, Any]
    limit: int | None
    reward: str

    def envs(self, count: int, render: bool = False) -> "TeamEnvs":
        """New copies of the environment."""
        from datamodules.teams.environments import make_team

        return make_team(self.name, count, self.arguments, self.limit, render)


def stage_of(described: Description, team: Any, environment: str | None = None) -> Stage:
    """Where a team was trained, or another environment that fits it.

    Raises:
        UserError: if none is known, or its sizes are not those of the team.
    """
    from datamodules.teams.episodes import REWARDS

    data, model = described.data.get("arguments", {}), described.folder.name
    name, reward = environment or data.get("environment"), data.get("team_reward", "sum")
    arguments = {} if environment else data.get("environment_arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict) or reward not in REWARDS:
        raise UserError(f"{model!r} does not say in which environment it plays: pass --environment")
    limit = None if environment else data.get("max_episode_steps")
    stage = Stage(name, arguments, limit if isinstance(limit, int) else None, reward)
    envs = stage.envs(1)
    envs.close()
    for part, there in envs.spaces.items():
        if team.spaces[part] != there:
            raise UserError(f"{model!r} has {part} {team.spaces[part]}, but {name} has {there}")
    return stage


def played(
    stage: Stage,
    team: Any,
    seed: int,
    *,
    explore: bool = False,
    generator: "Generator | None" = None,
    on_step: Callable[[int, Any], None] | None = None,
) -> "tuple[Tensor, Tensor, Tensor]":
    """The return (1,), length (1,) and returns of the agents (1, A) of the episode of one seed."""
    from datamodules.teams.episodes import ROWS, evaluate

    envs = stage.envs(ROWS, render=on_step is not None)
    try:
        return evaluate(envs, team, [seed], reward=stage.reward, explore=explore, generator=generator, on_step=on_step)
    finally:
        envs.close()


def write_clip(new: Path, described: Description, team: Any) -> dict[str, Any]:
    """A film for the card of a team, of the median episode of some: what results.json says of it. None of a table."""
    from commands.drawing.films import filming
    from commands.policies import CLIP_BYTES, CLIP_WIDTH

    stage = stage_of(described, team)
    if stage.name.startswith("matrix/"):
        return {}
    returns = {float(played(stage, team, seed)[0]): seed for seed in FILMED}
    median = returns[sorted(returns)[len(returns) // 2]]
    with filming(new / CLIP, width=CLIP_WIDTH, most_bytes=CLIP_BYTES) as film:
        played(stage, team, median, on_step=film)
    return {"animation": CLIP}
