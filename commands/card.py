"""What `evaluate --update` writes into a model folder: results.json, pictures and the card."""

import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.card import render
from checkpoints.catalogue import (
    ANIMATION,
    CARD,
    CLIP,
    CONFIG,
    PICTURE,
    RESULTS,
    WEIGHTS,
    Description,
    read_json,
    shipped,
)
from commands.measures.common import Metrics
from zoo.errors import UserError
from zoo.protocols import Player, Sampler

if TYPE_CHECKING:
    from torch import Tensor

GUIDANCE = 2.0  # scale of the picture of a guided model
PICTURED: dict[str, dict[str, Any]] = {  # protocol -> options of `sample` behind the picture, if not the model's own
    "shapes": {"sampler": "ddim", "steps": 50, "eta": 1.0, "spacing": "karras"},
}


def write_card(
    described: Description, metrics: Metrics, options: list[str], by_seed: dict[str, Any], licences: dict[str, str]
) -> None:
    """Writes the measured metrics of a model, its pictures and its card.

    Everything is made in a temporary folder and moved over at the end, so that numbers, pictures and text agree.

    Args:
        described: the model, with the data that it was measured on.
        metrics: the headline first.
        options: those of `evaluate` that the metrics were measured with.
        by_seed: empty, or {"metric", "values"} of all training seeds.
        licences: of the weights ("license") and of the data ("data_license"), where they are given.
    """
    folder = described.folder
    config = read_json(folder / CONFIG) | {"data": described.data} | licences
    name = folder.resolve().name
    results: dict[str, Any] = {
        "command": " ".join(["lightning-zoo evaluate", name, "--full", *options]),
        "training_seeds": [int(seed) for seed in by_seed["values"]] if by_seed else [described.origin["seed"]],
        "metrics": {name: measurement._asdict() for name, measurement in metrics.items()},
    }
    if by_seed:
        results["by_training_seed"] = by_seed
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.resolve().parent) as temporary:
            new = Path(temporary) / name
            new.mkdir()
            shutil.copyfile(folder / WEIGHTS, new / WEIGHTS)
            results |= illustrate(new, described)
            for file, content in ((CONFIG, config), (RESULTS, results)):
                text = json.dumps(content, indent=2, allow_nan=False)
                (new / file).write_text(text + "\n", encoding="utf-8")
            (new / CARD).write_text(render(new), encoding="utf-8")
            for file in (CONFIG, PICTURE, ANIMATION, CLIP, RESULTS, CARD):
                if (new / file).exists():
                    os.replace(new / file, folder / file)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None


def illustrate(new: Path, described: Description) -> dict[str, Any]:
    """Draws into a folder what a model can show; returns what results.json says of it."""
    from checkpoints.store import load

    model: Any = load(described)
    if described.task == "team":
        from commands import teams

        return teams.write_clip(new, described, model)
    if isinstance(model, Player):
        from commands.policies import write_clip

        return write_clip(new, described.folder)
    if described.task == "series":
        from commands.drawing.forecast import write_forecast

        write_forecast(new / PICTURE, model, described)
        return {"picture": PICTURE}
    if not isinstance(model, Sampler):
        return {}
    from commands.drawing.flows import write_animation
    from commands.measures.common import load_data

    shown: dict[str, Any] = {}
    data = load_data(described.data)
    if len(model.shape) == 3 or model.shape == (2,):
        shown["picture"] = PICTURE
        draw = _draw_images if len(model.shape) == 3 else _draw_points
        has_samplers = "sampler" in inspect.signature(model.sample).parameters
        options = PICTURED.get(described.protocol, {}) if has_samplers else {}
        draw(new / PICTURE, model, data, new.name, options)
    if len(model.shape) == 3:
        shown |= _judge_of(data)
    flow: Any = model
    if "picture" in shown and hasattr(flow, "path"):  # where a flow carries its noise
        shown["animation"] = ANIMATION
        write_animation(new / ANIMATION, flow)
    return shown


def _draw_images(path: Path, model: Any, data: Any, name: str, options: dict[str, Any]) -> None:
    """Real images, and as many that the model draws, all classes in turn if it has any."""
    import torch

    from commands.drawing.panels import draw_panels

    columns = 10 if len(model.labels) < 2 else 12
    count = 10 * columns
    how = [f"{key.replace('_', ' ')} {value}" for key, value in options.items()]
    if model.labels:
        options = options | {"labels": model.labels_in_turn(torch.arange(count))}
        how.append("classes in turn")
        if getattr(model, "null_labels", None) is not None:
            options["guidance_scale"] = GUIDANCE
            how.append(f"guidance scale {GUIDANCE:g}")
    samples = model.sample(count, generator=torch.Generator().manual_seed(0), **options).cpu()
    title = "\n".join([f"{name}, seed 0", ", ".join(how)] if how else [f"{name}, seed 0"])
    real = data.images("test")[_in_turn(data.labels("test"))[:count]]
    draw_panels(path, [("real test images", real), (title, samples)], columns)


def _in_turn(labels: "Tensor") -> "Tensor":
    """The rows of labels (N,) such that the classes come in turn, (N,); of several columns as they are."""
    import torch

    if labels.ndim > 1:
        return torch.arange(len(labels))
    earlier = (labels[:, None] == labels).tril(-1).sum(1)  # of the same class
    return (earlier * (int(labels.max()) + 1) + labels).argsort()


def _draw_points(path: Path, model: Any, data: Any, name: str, options: dict[str, Any]) -> None:
    """The true density where it is known, the learned one, and samples."""
    import torch

    from commands.drawing.flows import write_comparison, write_scatter

    if hasattr(data, "log_density"):
        write_comparison(path, name, data, model)
    else:
        write_scatter(model.sample(2000, generator=torch.Generator().manual_seed(0), **options).cpu(), path)


def _judge_of(data: Any) -> dict[str, Any]:
    """The classifier that judges samples of this data, and its accuracy."""
    from commands.measures.judge import JUDGES

    judge = JUDGES.get(type(data).__name__)
    if judge is None:
        return {}
    accuracy = read_json(shipped()[judge] / RESULTS)["metrics"]["test_accuracy"]["value"]
    return {"judge": {"name": judge, "test_accuracy": accuracy}}
