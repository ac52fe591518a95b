"""Model folders: writing, reading and verifying. Weights are safetensors, everything else JSON: nothing is unpickled.

A folder holds `config.json` ({"model": a key of MODELS, "arguments": plain values, and where it came from}),
`model.safetensors`, and when published `results.json`, `README.md`, `train.yaml`, `reference.safetensors`, a picture.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from checkpoints.catalogue import CONFIG, REFERENCE, WEIGHTS, find, read_json
from zoo.diffusion.model import ImageDiffusion
from zoo.errors import UserError
from zoo.nn.classifier import ImageClassifier

# What a config.json may name. A name from a file is looked up here and never imported.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "image-classifier": ImageClassifier,
    "image-diffusion": ImageDiffusion,
}


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A new model of the table MODELS, in evaluation mode.

    Raises:
        UserError: if the name is unknown or the arguments do not fit it.
    """
    if name not in MODELS:
        raise UserError(f"unknown model class {name!r}; this version knows {', '.join(MODELS)}")
    try:
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
        return MODELS[name](**plain).eval()
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"the arguments of {name!r} do not fit: {error}") from None


def load(model: str, device: str | torch.device = "cpu") -> nn.Module:
    """The trained model behind a MODEL (a shipped name or a model folder), in evaluation mode on `device`.

    Raises:
        UserError: if there is no such model, or its files are damaged, or weights are missing, extra or misshapen.
    """
    folder = find(model)
    config = read_json(folder / CONFIG)
    if not isinstance(config.get("model"), str) or not isinstance(config.get("arguments"), dict):
        raise UserError(f'{folder / CONFIG} must hold "model", a name, and "arguments", an object')
    built = build(config["model"], config["arguments"])
    _load_strictly(built, _read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return built.to(device)


def load_weights(target: nn.Module, model: str, name: str, arguments: dict[str, Any]) -> None:
    """Copies the weights of a MODEL into `target`, built as `name` from `arguments`: the start of fine-tuning.

    Raises:
        UserError: as `load`, and if the MODEL is of another class or another architecture.
    """
    folder = find(model)
    config = read_json(folder / CONFIG)
    if config.get("model") != name:
        raise UserError(f"model.pretrained {model!r} is of class {config.get('model')!r}, but this run trains {name!r}")
    for key, value in config.get("arguments", {}).items():
        # dropout holds no weights, so a run may change it
        if key != "dropout" and arguments.get(key) != value:
            raise UserError(
                f"model.pretrained {model!r} has {key} = {value!r}, but this run has {arguments.get(key)!r}: "
                f"set model.{key} to {value!r}"
            )
    _load_strictly(target, _read_tensors(folder / WEIGHTS), folder / WEIGHTS)


def save(folder: Path, name: str, arguments: dict[str, Any], state: dict[str, Tensor], origin: dict[str, Any]) -> None:
    """Writes a new model folder, whole or not at all, with a reference input and output for `verify`.

    Args:
        folder: where; must not exist yet.
        name: key of MODELS. arguments: plain values for it. state: its weights.
        origin: where the weights come from (seed, steps, config), stored in config.json.

    Raises:
        UserError: if the folder exists, its parent does not, or the weights do not fit.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: name a new folder, or remove it first")
    if not folder.resolve().parent.is_dir():
        raise UserError(f"the folder {folder.resolve().parent} does not exist: create it first")
    model = build(name, arguments)
    _load_strictly(model, state, folder)
    config = {"model": name, "arguments": arguments, "origin": origin, "versions": versions()}
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.resolve().parent))
    try:
        (beside / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({key: value.contiguous() for key, value in state.items()}, beside / WEIGHTS)
        save_file(reference(model), beside / REFERENCE)
        beside.chmod(0o755)
        os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def reference(model: nn.Module) -> dict[str, Tensor]:
    """A fixed input and the model's output for it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, *model.image_shape), generator=generator)  # type: ignore[misc]
    inputs: dict[str, Tensor] = {"x": x}
    if isinstance(model, ImageDiffusion):
        last = model.process.num_timesteps
        inputs["t"] = torch.tensor([1 + last // 3, last])
        if model.num_classes:
            inputs["labels"] = torch.tensor([0, model.num_classes - 1])
    return inputs | {"output": _call(model, inputs)}


def verify(model: str) -> float:
    """Largest difference between a MODEL's output for its reference input and the output that was stored.

    Raises:
        UserError: as `load`; and if the folder has no reference.
    """
    stored = _read_tensors(find(model) / REFERENCE)
    output = stored.pop("output")
    return (_call(load(model), stored) - output).abs().max().item()


def versions() -> dict[str, str]:
    """What made an artifact: this project, Python, PyTorch."""
    # as plain str: a checkpoint may hold nothing else
    packages = {"lightning-zoo": version("lightning-zoo"), "torch": str(torch.__version__)}
    return packages | {"python": platform.python_version()}


@torch.inference_mode()
def _call(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(*[inputs[name] for name in ("x", "t", "labels") if name in inputs])


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def _load_strictly(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    expected = model.state_dict()
    for what, names in (("lacks", expected.keys() - state.keys()), ("has the unknown", state.keys() - expected.keys())):
        if names:
            raise UserError(f"{source} {what} weight {min(names)!r}{f' and {len(names) - 1} more' * (len(names) > 1)}")
    for name, weight in expected.items():
        if state[name].shape != weight.shape:
            raise UserError(
                f"{source} has weight {name!r} of shape {tuple(state[name].shape)}, expected {tuple(weight.shape)}"
            )
    model.load_state_dict(state)
