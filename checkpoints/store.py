"""Model folders: writing, reading and verifying. Weights are safetensors, everything else JSON: nothing is unpickled.

A folder holds `config.json` (see `checkpoints.catalogue.Description`), `model.safetensors`, and when published
`results.json`, `README.md`, `train.yaml`, `reference.safetensors`, a picture.
"""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from checkpoints.catalogue import CONFIG, REFERENCE, TRAINING, WEIGHTS, Description, describe
from checkpoints.locate import find
from checkpoints.table import MODELS, builder
from checkpoints.whole import made_whole
from zoo.errors import UserError

LARGEST = 1_000_000  # no size in a config.json is larger
MOST_WEIGHTS = 10_000  # tensors in a model


# arguments of a model that a run takes from its data, not from an option
FROM_DATA = (
    "image_shape",
    "shape",
    "levels",
    "observation_shape",
    "num_actions",
    "action_low",
    "action_high",
    "spaces",
    "observation_sizes",
    "state_size",
)


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A new model of the table MODELS, in evaluation mode.

    Raises:
        UserError: if the name is unknown or the arguments do not fit it.
    """
    if name not in [*MODELS]:  # a list: what a file calls a name need not be hashable
        raise UserError(f"unknown model class {name!r}; this version knows {', '.join(MODELS)}")
    if not isinstance(arguments, dict):
        raise UserError(f"the arguments of {name!r} do not fit: they must be an object, got {arguments!r:.50}")
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    make = builder(name)
    parameters = inspect.signature(make).parameters
    for key, value in plain.items():
        if key in parameters and parameters[key].annotation is int and type(value) is not int:
            raise UserError(f"the arguments of {name!r} do not fit: {key} must be a whole number, got {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not abs(number) <= LARGEST:
                raise UserError(f"the arguments of {name!r} do not fit: {key} is beyond {LARGEST:,}")
    try:
        with torch.random.fork_rng(devices=[]):  # the weights that follow replace random ones
            return make(**plain).eval()
    except Exception as error:  # values of any type come from a file, so anything may be raised
        raise UserError(f"the arguments of {name!r} do not fit: {_first_line(error)}") from error


def load(model: str | Description, device: str | torch.device = "cpu") -> nn.Module:
    """The trained model behind a MODEL (a shipped name or a model folder), in evaluation mode on `device`.

    Args:
        model: a MODEL, or its description if that was read already.

    Raises:
        UserError: if there is no such model, or its files are damaged, or weights are missing, extra or misshapen.
    """
    described = model if isinstance(model, Description) else describe(find(model))
    path = described.folder / WEIGHTS
    state = _read_tensors(path)
    try:
        outline = _outline(described.model, described.arguments)
    except UserError as error:
        raise UserError(f"{described.folder / CONFIG}: {error}") from None
    _check_weights(outline, state, path)
    built = build(described.model, described.arguments)
    built.load_state_dict(state)
    return built.to(device)


def load_weights(target: nn.Module, model: str, name: str, arguments: dict[str, Any]) -> None:
    """Copies the weights of a MODEL into `target`, built as `name` from `arguments`: the start of fine-tuning.

    Raises:
        UserError: as `load`, and if the MODEL is of another class or another architecture.
    """
    folder = find(model)
    described = describe(folder)
    if described.model != name:
        raise UserError(f"model.pretrained {model!r} is of class {described.model!r}, but this run trains {name!r}")
    for key, value in described.arguments.items():
        # dropout holds no weights, so a run may change it
        if key != "dropout" and arguments.get(key) != value:
            raise UserError(
                f"model.pretrained {model!r} has {key} = {value!r}, but this run has {arguments.get(key)!r}: "
                + _how_to_agree(key, value)
            )
    state = _read_tensors(folder / WEIGHTS)
    _check_weights(target, state, folder / WEIGHTS)
    target.load_state_dict(state)


def _how_to_agree(key: str, value: object) -> str:
    """How a run comes to have this argument of a model."""
    if key == "num_classes":
        classes = (
            "no classes: set model.class_conditional to false" if not value else f"{value} classes: choose such data"
        )
        return f"it learned {classes}, or choose another model"
    if key in FROM_DATA:
        return "this comes from the data: choose data that agrees, or another model"
    return f"set model.{key} to {value!r}"


def save(
    folder: Path,
    name: str,
    arguments: dict[str, Any],
    state: dict[str, Tensor],
    origin: dict[str, Any],
    training: str | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Writes a new model folder, whole or not at all, with a reference input and output for `verify`.

    Args:
        folder: where; must not exist yet.
        name: key of MODELS. arguments: plain values for it. state: its weights.
        origin: where the weights come from (seed, steps, config), stored in config.json.
        training: the text of train.yaml, the config that trained it.
        about: what else config.json says: algorithm, paper, data, protocol; see `checkpoints.catalogue.Description`.

    Raises:
        UserError: if the folder exists or cannot be written, its parent does not exist, or the weights do not fit.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already: name a new folder, or remove it first")
    if not os.path.isdir(folder.resolve().parent):
        raise UserError(f"the folder {folder.resolve().parent} does not exist: create it first")
    from checkpoints.origin import versions

    _check_weights(_outline(name, arguments), state, folder)
    model = build(name, arguments)
    model.load_state_dict(state)
    config = {"model": name, **(about or {}), "arguments": arguments, "origin": origin, "versions": versions()}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"the arguments and the origin of {name!r} must be plain values: {error}") from None
    files = {
        CONFIG: text.encode(),
        WEIGHTS: to_bytes({key: value.contiguous() for key, value in state.items()}),
        REFERENCE: to_bytes(reference(model)),
    }
    if training is not None:
        files[TRAINING] = training.encode()
    with made_whole(folder) as new:
        for file, content in files.items():
            (new / file).write_bytes(content)  # safetensors' own save_file makes files private


def reference(model: nn.Module) -> dict[str, Tensor]:
    """The model's own example, by the names of what `forward` takes, and its "output" for that."""
    inputs = model.example(torch.Generator().manual_seed(0))  # type: ignore[operator]
    output = _call(model, inputs)
    if not output.isfinite().all():
        raise UserError("the output of the model for its example is not finite: its training has diverged")
    return inputs | {"output": output.contiguous()}  # safetensors holds no views


def verify(model: str) -> float:
    """Largest difference between a MODEL's output for its reference input and the output y that was stored.

    It is measured in units of max(1, |y|): processors agree on digits.

    Raises:
        UserError: as `load`; and if the folder has no reference.
    """
    path = find(model) / REFERENCE
    stored, loaded = _read_tensors(path), load(model)
    try:
        if any(value.is_complex() for value in stored.values()):
            raise TypeError("it holds complex numbers")
        if not stored["output"].isfinite().all():
            raise ValueError("its output is not finite")
        expected = stored["output"]
        return ((_call(loaded, stored) - expected).abs() / expected.abs().clamp(min=1)).max().item()
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is not a reference of this model: {_first_line(error)}") from error


def _outline(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The model without memory for its weights, so that a wrong size cannot fill it, nor a wrong depth take hours."""
    left = MOST_WEIGHTS

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(f"more than {MOST_WEIGHTS:,} weights")

    counting = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            return build(name, arguments)
    finally:
        counting.remove()


def _first_line(error: Exception) -> str:
    text = str(error).encode("utf-8", "backslashreplace").decode()  # a name in a JSON file may hold half a character
    return next(iter(text.splitlines()), type(error).__name__)


@torch.inference_mode()
def _call(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The output for inputs by their names; "x" of an older reference is the first input, whatever its name is now."""
    first = next(iter(inspect.signature(model.forward).parameters))
    named = {first if name == "x" else name: value for name, value in inputs.items() if name != "output"}
    output = model(**named)
    return torch.stack(output) if isinstance(output, tuple) else output


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None


def _check_weights(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    expected = model.state_dict()
    for what, names in (("lacks", expected.keys() - state.keys()), ("has the unknown", state.keys() - expected.keys())):
        if names:
            raise UserError(f"{source} {what} weight {min(names)!r}{f' and {len(names) - 1} more' * (len(names) > 1)}")
    for name, weight in expected.items():
        given = state[name].dtype if isinstance(state[name], Tensor) else type(state[name])
        if not isinstance(given, torch.dtype) or given.is_floating_point != weight.dtype.is_floating_point:
            raise UserError(f"{source} has weight {name!r} of type {given}, expected {weight.dtype}")
        if state[name].shape != weight.shape:
            raise UserError(
                f"{source} has weight {name!r} of shape {tuple(state[name].shape)}, expected {tuple(weight.shape)}"
            )
        if not state[name].isfinite().all():
            raise UserError(f"{source} has weight {name!r} with entries that are not finite: its training has diverged")
