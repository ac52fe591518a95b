"""Model folders: what they hold, which ship, what a config.json says. Standard library only: `list` starts at once."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.table import MODELS
from checkpoints.tasks import task_of
from zoo.errors import UserError

PREFIX = "hf://"  # of a model on the Hugging Face Hub
CONFIG, WEIGHTS, RESULTS, REFERENCE = "config.json", "model.safetensors", "results.json", "reference.safetensors"
CARD, PICTURE, ANIMATION, CLIP, TRAINING = "README.md", "samples.png", "flow.gif", "clip.gif", "train.yaml"
# all that a model folder may hold
FILES = (CONFIG, WEIGHTS, RESULTS, REFERENCE, CARD, TRAINING, PICTURE, ANIMATION, CLIP)


def shipped() -> dict[str, Path]:
    """The models that ship with the project: name -> folder, sorted by name."""
    root = Path(str(files("checkpoints"))) / "shipped"
    return {folder.name: folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or a UserError that names the file and what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def in_bytes(count: int) -> str:
    """A size as people read it: 38 kB, 1.7 MB."""
    return f"{count / 1e3:.0f} kB" if count < 100_000 else f"{count / 1e6:.1f} MB"


class Description(NamedTuple):
    """What a config.json says of a model, in plain values; a key that an older one lacks has its meaning of then.

    Attributes:
        folder: of the model.
        model, arguments: a key of `checkpoints.table.MODELS`, and the arguments of its class.
        task: a key of `checkpoints.tasks.TASKS`.
        algorithm, paper: what trained it: the name of the LightningModule, and its source. Empty if unknown.
        data: {"class", "arguments"} of the DataModule, and what a model does not know of its data: "levels" of grey,
            "label_names" of each label column, names of "columns" of points. Empty if unknown.
        protocol: a key of `commands.measures.PROTOCOLS`; "" for that of the task.
        origin: seed, commit, steps, versions.
        versions: what wrote the folder.
    """

    folder: Path
    model: str
    arguments: dict[str, Any]
    task: str
    algorithm: str
    paper: str
    data: dict[str, Any]
    protocol: str
    origin: dict[str, Any]
    versions: dict[str, Any]


def describe(folder: Path) -> Description:
    """The description of the model in a folder.

    Raises:
        UserError: if config.json cannot be read, or a value in it has the wrong type.
    """
    path = folder / CONFIG
    config = read_json(path)
    if not isinstance(config.get("model"), str) or not isinstance(config.get("arguments"), dict):
        raise UserError(f'{path} must hold "model", a name, and "arguments", an object')
    if config["model"] not in MODELS:
        raise UserError(f"{path}: unknown model class {config['model']!r}; this version knows {', '.join(MODELS)}")
    texts = {key: config.get(key, "") for key in ("algorithm", "paper", "protocol")}
    objects = {key: config.get(key) or {} for key in ("origin", "versions", "data")}
    for kind, values in ((str, texts), (dict, objects)):
        for key, value in values.items():
            if not isinstance(value, kind):
                raise UserError(
                    f"{path}: {key!r} must be {'a text' if kind is str else 'an object'}, got {value!r:.50}"
                )
    data = objects["data"] or _data_of_old(objects["origin"])
    if data and not (isinstance(data.get("class"), str) and isinstance(data.get("arguments", {}), dict)):
        raise UserError(f'{path}: "data" must hold "class", a name, and "arguments", an object')
    task = task_of(config["model"], config["arguments"])
    if "protocol" not in config:
        texts["protocol"] = _protocol_of_old(config["model"], task, config["arguments"], data)
    return Description(
        folder=folder,
        model=config["model"],
        arguments=config["arguments"],
        task=task,
        data={"arguments": {}} | data if data else {},
        origin=objects["origin"],
        versions=objects["versions"],
        **texts,
    )


def _data_of_old(origin: dict[str, Any]) -> dict[str, Any]:
    """The data of a config.json of version 0.1, which names a data set or an environment in its origin."""
    name = origin.get("data")
    if not isinstance(name, str):
        return {}
    if "environment_arguments" in origin:
        arguments = {"environment": name, "environment_arguments": origin["environment_arguments"]}
        return {"class": "Experience", "arguments": arguments}
    return data_named(name)


def data_named(name: str) -> dict[str, Any]:
    """The data of a name of version 0.1, which `evaluate --data` takes too: digits, shapes, or a density as moons.

    {} if there is no such name.
    """
    from checkpoints.datasets import DENSITIES

    old: dict[str, dict[str, Any]] = {
        "digits": {"class": "Digits", "arguments": {}, "levels": 17},
        "shapes": {"class": "Shapes", "arguments": {}, "levels": 256},
    }
    return {"class": "Densities", "arguments": {"name": name}} if name in DENSITIES else old.get(name, {})


def _protocol_of_old(model: str, task: str, arguments: dict[str, Any], data: dict[str, Any]) -> str:
    """How version 0.1 measured a model, which its config.json does not say; "" for the way of its task."""
    if model == "noisy-classifier":
        return "guiding"
    if task != "images":
        return ""
    if model != "image-diffusion":
        return "likelihood"
    if data.get("class") == "Shapes":
        return "shapes"
    if arguments.get("schedule") == "ve":
        return "score"
    return "guidance" if arguments.get("num_classes") else ""
