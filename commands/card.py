"""What `evaluate --update` writes into a model folder: results.json, the picture and the card."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import CARD, CLIP, CONFIG, PICTURE, RESULTS, WEIGHTS, read_json, shipped
from checkpoints.whole import written_whole
from zoo.errors import UserError

GUIDANCE = 2.0  # scale of the picture on a card

if TYPE_CHECKING:
    from commands.measures import Metrics
    from datamodules.images import ImageDataModule


def write_card(folder: Path, data: "ImageDataModule", data_name: str, metrics: "Metrics", options: list[str]) -> None:
    """Writes the measured metrics of a model, its picture if it draws, its card, and for a shipped one its page.

    `options` are those of `evaluate` that the metrics were measured with.

    Everything is made in a folder beside and moved over at the end, so that numbers, picture and text agree.
    """
    from checkpoints import load
    from checkpoints.card import render
    from commands.measures import JUDGE

    config = read_json(folder / CONFIG)
    config["origin"]["data"] = data_name
    name = folder.resolve().name
    results: dict[str, Any] = {
        "command": " ".join(["lightning-zoo evaluate", name, "--full", *options]),
        "training_seeds": [config["origin"]["seed"]],
        "metrics": {name: measurement._asdict() for name, measurement in metrics.items()},
    }
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.resolve().parent) as beside:
            new = Path(beside) / name
            new.mkdir()
            shutil.copyfile(folder / WEIGHTS, new / WEIGHTS)
            model: Any = load(str(folder))
            if hasattr(model, "sample"):
                results["picture"] = PICTURE
                if judge := JUDGE.get(data_name):
                    accuracy = read_json(shipped()[judge] / RESULTS)["metrics"]["test_accuracy"]["value"]
                    results["judge"] = {"name": judge, "test_accuracy": accuracy}
                draw_picture(new / PICTURE, model, data, name)
            for file, content in ((CONFIG, config), (RESULTS, results)):
                (new / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (new / CARD).write_text(render(new), encoding="utf-8")
            for file in (CONFIG, PICTURE, RESULTS, CARD):
                if (new / file).exists():
                    os.replace(new / file, folder / file)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    write_page(folder)


def write_policy_card(folder: Path, metrics: "Metrics") -> None:
    """The same for a policy, with a clip of its first evaluation episode. Returns of all training seeds are kept."""
    from functools import partial

    from checkpoints.card import render
    from commands.policies import CLIP_FRAMES, CLIP_WIDTH, Film, load_policy
    from datamodules.experience.collector import play
    from datamodules.experience.environments import make

    config = read_json(folder / CONFIG)
    before = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {}
    name = folder.resolve().name
    results = {
        "command": f"lightning-zoo evaluate {name} --full",
        "training_seeds": [config["origin"]["seed"]],
        "metrics": {metric: measurement._asdict() for metric, measurement in metrics.items()},
        "picture": CLIP,
    }
    if "returns_by_training_seed" in before:
        results["returns_by_training_seed"] = before["returns_by_training_seed"]
    policy, environment, arguments = load_policy(str(folder), "cpu")
    film = Film()
    play(policy, partial(make, environment, arguments, render=True), [0], on_step=film)
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.resolve().parent) as beside:
            new = Path(beside) / name
            new.mkdir()
            for file in (CONFIG, WEIGHTS):
                shutil.copyfile(folder / file, new / file)
            film.write(new / CLIP, width=CLIP_WIDTH, most=CLIP_FRAMES)
            (new / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            (new / CARD).write_text(render(new), encoding="utf-8")
            for file in (CLIP, RESULTS, CARD):
                os.replace(new / file, folder / file)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}") from None
    write_page(folder)


def draw_picture(path: Path, model: Any, data: "ImageDataModule", name: str) -> None:
    """Real images beside those that a model draws; all classes in turn, if it knows any."""
    import torch

    from commands.pictures import draw_panels

    columns = 10 if len(model.num_classes) < 2 else 12
    count = 10 * columns
    labels = model.labels_in_turn(torch.arange(count))
    scale = 1.0 if labels is None else GUIDANCE
    generator = torch.Generator().manual_seed(0)
    samples = model.sample(count, steps=50, labels=labels, guidance_scale=scale, generator=generator).cpu()
    how = "" if labels is None else f"\nclasses in turn, guidance scale {scale:g}"
    panels = [("real test images", data.images("test")[:count]), (f"{name}, 50 DDIM steps, seed 0{how}", samples)]
    draw_panels(path, panels, columns)


def write_page(folder: Path) -> None:
    """Writes the card of a shipped model as docs/models/<name>.md too, where this runs from a checkout."""
    from checkpoints.card import render

    root, name = Path(__file__).resolve().parent.parent, folder.resolve().name
    if folder.resolve().parent != root / "checkpoints" or not (root / "pyproject.toml").is_file():
        return
    page = root / "docs" / "models" / f"{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(page) as beside:
        beside.write_text(render(folder, pictures=f"../../checkpoints/{name}/"), encoding="utf-8")
