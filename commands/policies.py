"""What the verbs that play a policy share: its environment, its episodes, its films."""

import importlib
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CLIP, Description
from checkpoints.locate import find
from checkpoints.tasks import TASKS
from checkpoints.whole import written_whole
from zoo.errors import UserError, one_line

CLIP_WIDTH, CLIP_FRAMES = 200, 80  # of the film on a card, so that it stays small
FRAMES_PER_SECOND = 30


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

    described = describe(find(model))
    if described.task != "policy":
        verbs = " or ".join(TASKS[described.task].verbs)
        raise UserError(f"{model!r} plays in no environment: it is for {described.task}; use {verbs}")
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
        raise UserError(f"{model!r} does not say in which environment it plays: pass --environment")
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
    """A film of the first evaluation episode of a policy, for its card: what results.json says of it."""
    from datamodules.experience.environments import make
    from datamodules.experience.episodes import play

    policy, name, arguments = load_policy(str(folder), "cpu")
    steps = int(play(policy, partial(make, name, arguments), [0]).lengths[0]) + 1
    film = Film(every=-(-steps // CLIP_FRAMES))  # drawing may take far longer than playing
    play(policy, partial(make, name, arguments, render=True), [0], on_step=film)
    film.write(new / CLIP, width=CLIP_WIDTH)
    return {"animation": CLIP}


class Film:
    """Pictures of the environments that `play` steps, one episode after another; `write` makes a film of them.

    Args:
        every: draws each n-th step of an episode only.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.frames: dict[int, list[Any]] = {}
        self.steps: dict[int, int] = {}

    def __call__(self, episode: int, env: Any) -> None:
        step = self.steps[episode] = self.steps.get(episode, -1) + 1
        if not step:
            _draw_floor_without_end(env)
        if step % self.every:
            return
        try:
            frame = env.render()
        except Exception as error:  # whatever a renderer raises
            why = one_line(str(error))
            raise UserError(f"the environment cannot be drawn here (MuJoCo: try MUJOCO_GL=osmesa): {why}") from None
        if frame is None:
            raise UserError("the environment has no renderer that gives pictures, so there is no video of it")
        self.frames.setdefault(episode, []).append(frame)

    def write(self, path: Path, *, width: int | None = None) -> None:
        """Writes a .gif or .mp4, the first scaled to `width`."""
        frames = [frame for episode in sorted(self.frames) for frame in self.frames[episode]]
        {".gif": _write_gif, ".mp4": _write_mp4}[path.suffix.lower()](path, frames, width)


def _draw_floor_without_end(env: Any) -> None:
    """Runners soon leave the floor that MuJoCo draws, if not the plane that holds them; one of size 0 has no end."""
    model: Any = getattr(env.unwrapped, "model", None)
    if not hasattr(model, "geom_type"):
        return
    for plane in ((model.geom_type == 0) & (model.geom_size[:, 0] > 0)).nonzero()[0]:
        material = model.geom_matid[plane]
        if material >= 0:  # its pattern is counted on half the floor, and then in a metre
            model.mat_texrepeat[material] /= model.geom_size[plane, :2]
        model.geom_size[plane, :2] = 0


def _write_gif(path: Path, frames: list[Any], width: int | None) -> None:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    if width:
        pictures = [picture.resize((width, picture.height * width // picture.width)) for picture in pictures]
    pictures = [picture.quantize(32, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for picture in pictures]
    with written_whole(path) as beside:
        pictures[0].save(
            beside, save_all=True, append_images=pictures[1:], duration=1000 // FRAMES_PER_SECOND, loop=0, optimize=True
        )


def _write_mp4(path: Path, frames: list[Any], width: int | None) -> None:
    check_video(path)
    import imageio_ffmpeg
    import numpy as np

    height, breadth = frames[0].shape[:2]
    with written_whole(path) as beside:
        writer: Any = imageio_ffmpeg.write_frames(
            str(beside), (breadth, height), fps=FRAMES_PER_SECOND, macro_block_size=2, ffmpeg_log_level="error"
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()


def check_video(path: Path) -> None:
    """Raises a UserError if what a film needs is not installed."""
    import importlib.util

    needed: Callable[[str], Any] = importlib.util.find_spec
    if path.suffix.lower() == ".mp4" and needed("imageio_ffmpeg") is None:
        raise UserError("an .mp4 needs an encoder: pip install 'lightning-zoo[video]', or write a .gif")
