"""What `evaluate --update` writes into a model folder: results.json, pictures and the card."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import (
    ANIMATION,
    CARD,
    CLIP,
    CONFIG,
    PICTURE,
    RESULTS,
    WEIGHTS,
    read_json,
    shipped,
)
from zoo.errors import UserError

GUIDANCE = 2.0  # scale of the picture on a card

if TYPE_CHECKING:
    from commands.measures.common import Metrics


def write_card(
    folder: Path,
    data_name: str,
    metrics: "Metrics",
    options: list[str],
    by_seed: dict[str, Any],
    illustrate: Callable[[Path], dict[str, Any]],
) -> None:
    """Writes the measured metrics of a model, its pictures and its card.

    `options` are those of `evaluate` that the metrics were measured with; `by_seed` is empty, or {"metric", "values"}
    of all training seeds; `illustrate` draws into a folder, and returns what results.json says of it.

    Everything is made in a folder beside and moved over at the end, so that numbers, picture and text agree.
    """
    from checkpoints.card import render

    config = read_json(folder / CONFIG)
    config["origin"]["data"] = data_name
    name = folder.resolve().name
    results: dict[str, Any] = {
        "command": " ".join(["lightning-zoo evaluate", name, "--full", *options]),
        "training_seeds": [int(seed) for seed in by_seed["values"]] if by_seed else [config["origin"]["seed"]],
        "metrics": {name: measurement._asdict() for name, measurement in metrics.items()},
    }
    if by_seed:
        results["by_training_seed"] = by_seed
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.resolve().parent) as beside:
            new = Path(beside) / name
            new.mkdir()
            shutil.copyfile(folder / WEIGHTS, new / WEIGHTS)
            results |= illustrate(new)
            for file, content in ((CONFIG, config), (RESULTS, results)):
                (new / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (new / CARD).write_text(render(new), encoding="utf-8")
            for file in (CONFIG, PICTURE, ANIMATION, CLIP, RESULTS, CARD):
                if (new / file).exists():
                    os.replace(new / file, folder / file)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None


def illustrate_model(new: Path, model: Any, data: Any, data_name: str) -> dict[str, Any]:
    """What a model draws, if it draws: the picture, a flow's animation, and who reads the pictures."""
    from commands.drawing.flows import write_animation
    from commands.measures.common import JUDGE
    from zoo.flows.model import Flow

    said: dict[str, Any] = {}
    if hasattr(model, "sample"):
        said["picture"] = PICTURE
        if judge := JUDGE.get(data_name):
            accuracy = read_json(shipped()[judge] / RESULTS)["metrics"]["test_accuracy"]["value"]
            said["judge"] = {"name": judge, "test_accuracy": accuracy}
        draw_picture(new / PICTURE, model, data, new.name)
    if isinstance(model, Flow):
        said["animation"] = ANIMATION
        write_animation(new / ANIMATION, model)
    return said


def draw_picture(path: Path, model: Any, data: Any, name: str) -> None:
    """Real images beside those that a model draws, all classes in turn if it knows any; densities of the plane."""
    import torch

    from commands.drawing.flows import write_comparison
    from commands.drawing.panels import draw_panels
    from zoo.flows.model import Flow

    if isinstance(model, Flow):
        if not model.image_shape:
            return write_comparison(path, name, data, model)
        labels = torch.arange(100) % model.num_classes if model.num_classes else None
        samples = model.sample(100, labels=labels, generator=torch.Generator().manual_seed(0)).cpu()
        return draw_panels(
            path, [("real test images", data.images("test")[:100]), (f"{name}, temperature 1, seed 0", samples)]
        )
    columns = 10 if len(model.num_classes) < 2 else 12
    count = 10 * columns
    labels = model.labels_in_turn(torch.arange(count))
    scale = 1.0 if labels is None else GUIDANCE
    generator = torch.Generator().manual_seed(0)
    samples = model.sample(count, steps=50, labels=labels, guidance_scale=scale, generator=generator).cpu()
    how = "" if labels is None else f"\nclasses in turn, guidance scale {scale:g}"
    panels = [("real test images", data.images("test")[:count]), (f"{name}, 50 DDIM steps, seed 0{how}", samples)]
    draw_panels(path, panels, columns)
