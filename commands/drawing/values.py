"""A table's values and greedy actions in a grid world, as they come about."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from checkpoints.catalogue import TRAINING, Description
from checkpoints.whole import written_whole
from commands.measures.common import load_data, say
from zoo.errors import UserError

FRAMES, RATE, PAUSE = 36, 4, 10  # of an animation, how many a second, and how many stand still at the end
CELL = {4: 104, 8: 62, 12: 58}  # pixels of a cell, by the columns of the grid
DARK, GOAL = "#3b3f46", "#4c9f70"


class Frame(NamedTuple):
    """A table after some steps."""

    steps: int
    q: Tensor


def write_values(path: Path, model: Any, described: Description) -> list[dict[str, Any]]:
    """Draws V(s) = max_a Q(s, a) and arrows for the best actions: a PNG of the model's table, or a GIF of it learning.

    For a GIF the table learns again, by the options in train.yaml; the last picture is of the model itself.

    Returns:
        The steps and the expected return of the greedy policy of each picture.

    Raises:
        UserError: if the model's environment is no grid world, or train.yaml is absent where it is needed.
    """
    from datamodules.experience.planning import grid_of
    from zoo.rl.tabular.mdp import greedy

    data = load_data(described.data)
    env = data.make()
    try:
        grid = grid_of(data.environment, env)
    finally:
        env.close()
    if getattr(data, "mdp", None) is None:
        raise UserError("figure values is for a table that was trained with TabularExperience")
    last = Frame(int(described.origin.get("steps", 0)), model.q.detach().cpu())
    method, history = "", []
    if path.suffix.lower() == ".gif":
        method, options = _training(described)
        history = [*_learn_again(model, data, options)]
    values = model.state_values().cpu()[torch.tensor(np.isin(grid.letters.ravel(), ("S", "F")))]
    low, high = min(0.0, float(values.min())), max(1e-6, float(values.max()))  # with 0, where learning begins
    numbers, pictures = [], []
    for frame in [*history, last]:
        expected = data.mdp.expected_return(greedy(frame.q.double()), limit=data.limit)
        numbers.append({"steps": frame.steps, "expected_return": expected})
        name = method.replace("_", " ").replace("sarsa", "SARSA") + ", " * bool(method)
        unit = {"value_iteration": "sweep", "policy_iteration": "round"}.get(method, "step")
        title = f"{data.environment}: {name}{unit} {frame.steps:,}\nreturn of the greedy policy {expected:.2f}"
        pictures.append(_draw(frame.q, grid, title, low, high))
        say(f"drawing: picture {len(pictures)} of {len(history) + 1}")
    say("")
    _write(path, pictures)
    return numbers


def _training(described: Description) -> tuple[str, dict[str, Any]]:
    """The method of a run and its options, from train.yaml."""
    import inspect

    import yaml

    from lightning_modules import Tabular

    file = described.folder / TRAINING
    if not file.is_file():
        raise UserError(f"{file} does not exist, so the table cannot learn again: write a .png of it instead")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["init_args"]
        json.dumps(found)
        known = inspect.signature(Tabular).parameters.keys() - {"spaces", "total_env_steps", "pretrained"}
        options = {key: value for key, value in found.items() if key in known}
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is no config of Tabular: {type(error).__name__}") from None
    return str(options.get("method", "q_learning")), options


def _learn_again(model: Any, data: Any, options: dict[str, Any]) -> Iterator[Frame]:
    """About FRAMES tables on the way, each twice as far along as one some pictures before; the last is left out."""
    from datamodules.experience.tabular import Walk
    from lightning_modules import Tabular
    from zoo.rl.tabular.learning import LEARNERS
    from zoo.rl.tabular.simulator import Simulator

    torch.manual_seed(0)
    module = Tabular(model.spaces, data.total_env_steps, **options)
    module.on_train_start()
    world = Simulator(data.mdp, data.limit, seed=0)
    plans = options.get("method") not in LEARNERS and "method" in options
    first = 1 if plans else 10 * data.mdp.start.shape[0]
    marks = np.unique(np.geomspace(first, data.total_env_steps, FRAMES).round().astype(int))
    yield Frame(0, torch.zeros_like(model.q, device="cpu"))
    for mark in marks[:-1]:
        walk = Walk(world, int(mark) - int(module.env_steps), data.mdp)
        with torch.no_grad():
            count, converged = module.plan(walk)[1:] if plans else (walk.steps, module.learn(walk) is None)
        module.env_steps += count
        if converged:
            return
        yield Frame(int(module.env_steps), module.model.q.detach().clone())


def _draw(q: Tensor, grid: Any, title: str, low: float, high: float) -> np.ndarray[Any, Any]:
    """A picture (height, width, 3) of 0 ... 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = grid.letters.shape
    cell = next((size for most, size in CELL.items() if columns <= most), 40)
    width, height, above = columns * cell + 16, rows * cell + 16, 52
    figure = Figure(figsize=(width / 100, (height + above) / 100), dpi=100)
    axes = figure.add_axes((8 / width, 8 / (height + above), 1 - 16 / width, (height - 16) / (height + above)))
    values = q.amax(1).view(rows, columns).numpy()
    acts = np.isin(grid.letters, ("S", "F"))
    axes.imshow(np.where(acts, values, np.nan), cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set(xticks=[], yticks=[])
    for (row, column), letter in np.ndenumerate(grid.letters):
        if not acts[row, column]:
            colour = GOAL if letter == "G" else DARK
            axes.add_patch(_square(row, column, colour))
            name = {"G": "goal", "H": "hole", "C": "cliff"}.get(letter, str(letter))
            axes.text(column, row, name, ha="center", va="center", color="white", fontsize=cell / 7)
            continue
        share = (values[row, column] - low) / (high - low)
        ink = "black" if share > 0.6 else "white"
        digits = f"{values[row, column]:.2f}" if high - low < 5 else f"{values[row, column]:.1f}"
        axes.text(column, row + 0.3, digits, ha="center", va="center", color=ink, fontsize=cell / 7)
        if letter == "S":
            axes.text(column - 0.44, row - 0.3, "S", ha="left", va="center", color=ink, fontsize=cell / 8)
        _arrows(axes, q[row * columns + column], grid.moves, row, column, ink)
    figure.text(0.5, 1 - above / 2 / (height + above), title, ha="center", va="center", fontsize=11, linespacing=1.4)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _square(row: int, column: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="none")


def _arrows(axes: Any, q: Tensor, moves: Any, row: int, column: int, ink: str) -> None:
    """An arrow for each best action; none where all are equal, as before anything is known."""
    best = (q == q.max()).nonzero()[:, 0].tolist()
    for action in best if len(best) < len(q) else []:
        down, right = moves[action]
        axes.annotate(
            "",
            xy=(column + 0.3 * right, row - 0.14 + 0.27 * down),
            xytext=(column - 0.03 * right, row - 0.14 - 0.03 * down),
            arrowprops={"arrowstyle": "-|>", "color": ink, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0},
        )


def _write(path: Path, pictures: list[Any]) -> None:
    from PIL import Image

    from commands.drawing.films import Gif

    with written_whole(path) as beside:
        if path.suffix.lower() == ".png":
            Image.fromarray(pictures[-1]).save(beside, format="png")
            return
        film = Gif(beside, RATE, float("inf"))
        for picture in [*pictures, *[pictures[-1]] * PAUSE]:
            film.add(picture)
        film.close()
