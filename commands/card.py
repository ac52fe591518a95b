"""What `evaluate --update` writes into a model folder: results.json, the picture and the card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import CONFIG, RESULTS, read_json, shipped
from commands.options import written_whole

if TYPE_CHECKING:
    from commands.evaluate import Metrics
    from datamodules.images import ImageDataModule

PICTURE = "samples.png"


def write_card(folder: Path, model: Any, data: "ImageDataModule", data_name: str, metrics: "Metrics") -> None:
    """Writes the measured metrics of a model, its picture if it draws, and its card."""
    import torch

    from checkpoints.card import render
    from commands.evaluate import JUDGE
    from commands.pictures import draw_panels

    config = read_json(folder / CONFIG)
    config["origin"]["data"] = data_name
    _write(folder / CONFIG, config)
    results: dict[str, Any] = {
        "command": f"lightning-zoo evaluate {folder.resolve().name} --full",
        "training_seeds": [config["origin"]["seed"]],
        "metrics": {name: measurement._asdict() for name, measurement in metrics.items()},
    }
    if hasattr(model, "sample"):
        judge = JUDGE[data_name]
        accuracy = read_json(shipped()[judge] / RESULTS)["metrics"]["test_accuracy"]["value"]
        results |= {"judge": {"name": judge, "test_accuracy": accuracy}, "picture": PICTURE}
        samples = model.sample(100, steps=50, generator=torch.Generator().manual_seed(0)).cpu()
        name = folder.resolve().name
        panels = [("real test images", data.images("test")[:100]), (f"{name}, 50 DDIM steps, seed 0", samples)]
        draw_panels(folder / PICTURE, panels)
    _write(folder / RESULTS, results)
    with written_whole(folder / "README.md") as beside:
        beside.write_text(render(folder), encoding="utf-8")


def _write(path: Path, content: dict[str, Any]) -> None:
    with written_whole(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
