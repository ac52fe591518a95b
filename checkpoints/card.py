"""The model card, README.md of a model folder: written from its config.json and results.json, never by hand.

Both files may come from a stranger, so whatever is taken from them is shown as plain text: no markup, no HTML.
"""

import html
import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from checkpoints.catalogue import (
    ANIMATION,
    CLIP,
    CONFIG,
    PICTURE,
    RESULTS,
    TRAINING,
    WEIGHTS,
    in_bytes,
    read_json,
    shipped,
)
from zoo.errors import UserError

NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)  # what the Hub accepts
POLICIES = ("actor", "actor-critic")
FLOWS = ("cnf", "glow", "nice", "realnvp")
PIPELINES = dict.fromkeys(FLOWS, "other") | {
    **dict.fromkeys(POLICIES, "reinforcement-learning"),
    "image-diffusion": "unconditional-image-generation",
    "image-classifier": "image-classification",
    "noisy-classifier": "image-classification",
}

DATASETS = {
    "digits": (
        "scikit-learn digits",
        "scikit-learn's digits: 1,797 hand-written digits, 8x8 pixels, 17 grey levels (the test part of UCI's Optical "
        "Recognition of Handwritten Digits, CC BY 4.0). Split by index: train 0-999, validation 1000-1349, "
        "test 1350-1796.",
    ),
    "shapes": (
        "coloured shapes",
        "Shapes: a circle, square or triangle of one of six colours on black, anywhere and of any size, 32x32 RGB, "
        "drawn from a seed by `zoo/synthetic/shapes.py`; 2,000 held-out pictures.",
    ),
}
TOYS = {  # densities of the plane: name -> what it is
    "moons": "two half circles",
    "circles": "two circles",
    "rings": "four thin rings",
    "pinwheel": "five curved arms",
    "8gaussians": "eight normal distributions on a circle",
    "checkerboard": "eight squares of a checkerboard",
    "2spirals": "two spirals",
    "swissroll": "a roll",
}
DATASETS |= {
    name: (
        f"{name} (2-D)",
        f"The density {name!r}, {what}, by FFJORD's definition (`zoo/synthetic/densities.py`): independent points from "
        "a seed, 100,000 for testing. Its density is known, and so is its entropy, the floor of the NLL.",
    )
    for name, what in TOYS.items()
}
LABELS = {"digits": "7", "shapes": "triangle,red"}  # an example of what can be asked for

DRAW = """```bash
lightning-zoo sample {model} --num-samples 64 --seed 0 --output samples.png
```

```python
import torch
from checkpoints import load

model = load("{model}")
images = model.sample(16, steps=50, generator=torch.Generator().manual_seed(0))  # (16, {shape}) in [-1, 1]
```"""
ASK = """```bash
lightning-zoo sample {model} --num-samples 64 --seed 0 --labels {asked} --guidance-scale 2 --output samples.png
```

```python
import torch
from checkpoints import load

model = load("{model}")
labels = torch.tensor([{first}] * 16)
images = model.sample(16, labels=labels, guidance_scale=2.0)  # (16, {shape}) in [-1, 1]
```"""
FLOW_OF_POINTS = """```bash
lightning-zoo sample {model} --num-samples 2000 --seed 0 --output samples.png
lightning-zoo density {model} --output density.png
```

```python
import torch
from checkpoints import load

model = load("{model}")
points = model.sample(16, generator=torch.Generator().manual_seed(0))  # (16, {shape})
log_density = model.log_prob(points)  # (16,) nats
```"""
FLOW_OF_IMAGES = """```bash
lightning-zoo sample {model} --num-samples 64 --seed 0 --temperature 0.8 --output samples.png
```

```python
import torch
from checkpoints import load

model = load("{model}")
images = model.sample(16, generator=torch.Generator().manual_seed(0))  # (16, {shape}) in [-1, 1]
log_probability = model.log_likelihood(images, draws=32)  # (16,) nats, from below
```"""
PLAY = """```bash
lightning-zoo rollout {model} --episodes 10 --seed 0 --video policy.mp4
```

```python
import torch
from checkpoints import load

policy = load("{model}")
action = policy.act(torch.zeros({shape}))  # for the environment; explore=True draws it
```"""
USES = {
    "image-diffusion": DRAW,
    **dict.fromkeys(POLICIES, PLAY),
    "image-classifier": """```python
import torch
from checkpoints import load

model = load("{model}")
probabilities = model(torch.zeros(1, {shape})).softmax(dim=1)  # images in [-1, 1]; model.features(x) for the features
```""",
    "noisy-classifier": """```bash
lightning-zoo sample ddpm-digits --classifier {model} --labels 7 --guidance-scale 3 --output sevens.png
```

```python
import torch
from checkpoints import load

model = load("{model}")
noised, t = torch.zeros(1, {shape}), torch.tensor([300])
probabilities = model(noised, t).softmax(dim=1)
```""",
}


def render(folder: Path, model: str | None = None, pictures: str = "") -> str:
    """The text of the card of a model folder that has its results.

    Args:
        folder: its name is the model's, if there is no other.
        model: what a user loads it by, hf://owner/name; by default the folder's name.
        pictures: what stands before the name of a picture, for a page that lies elsewhere.

    Raises:
        UserError: if the name is not one, or config.json or results.json lack what a card says.
    """
    name = (model or folder.resolve().name).rsplit("/", 1)[-1]
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a model: use letters, digits, '-', '_' and '.'")
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder} has no {RESULTS} to write a card from: measure it with `evaluate {folder} --update`")
    config, results = read_json(folder / CONFIG), read_json(folder / RESULTS)
    for path, content, kinds in (
        (folder / CONFIG, config, {"model": str, "arguments": dict, "origin": dict}),
        (folder / RESULTS, results, {"metrics": dict, "command": str}),
    ):
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                raise UserError(f"{path} must hold {key!r}, {'an object' if kind is dict else 'a text'}, for a card")
    try:
        return _render(folder, name, config, results, model or name, pictures)
    except UserError:
        raise
    except Exception as error:  # values of any type come from files, so anything may be raised
        raise UserError(f"{folder} has values that no card can show: {type(error).__name__}: {_plain(error)}") from None


def _render(folder: Path, name: str, config: dict[str, Any], results: dict[str, Any], model: str, pictures: str) -> str:
    task, data = PIPELINES.get(config["model"]), config["origin"].get("data")
    plays = config["model"] in POLICIES
    if task is None or (data not in [*DATASETS] and not plays):
        what, known = ("class", PIPELINES) if task is None else ("data", DATASETS)
        value = config["model"] if task is None else data
        raise UserError(f"{folder / CONFIG}: no card is known for the {what} {value!r}, only for {', '.join(known)}")
    label, about = (_plain(data), _environment(config)) if plays else DATASETS[data]
    metrics = {_plain(metric): entry for metric, entry in results["metrics"].items()}
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="lightning-zoo",
        pipeline_tag=task,
        tags=["lightning", "pytorch", config["model"]],
        datasets=None if plays else [data],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=label if plays else data,
                dataset_name=label,
                dataset_split=None if plays else "test",
                metric_type=metric,
                metric_value=round(_number(entry["value"]), 6),
            )
            for metric, entry in metrics.items()
        ],
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {name}",
        _summary(config, folder),
        f"![samples]({pictures}{PICTURE})" if results.get("picture") == PICTURE else "",
        _animation(results, pictures),
        "## Use\n\n" + _use(config, model, data),
        "## Numbers\n\n" + _table(metrics),
        _judge(results),
        _training_seeds(results),
        f"Measured by `{_plain(results['command'])}`; `lightning-zoo evaluate {model}` measures them again. "
        "The value is a mean over the stated sample size, with its standard error.",
        "## Training\n\n" + _training(config, folder.resolve().name),
        f"## {'Environment' if plays else 'Data'}\n\n{about}",
        "Weights: Apache-2.0.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(config: dict[str, Any], model: str, data: str) -> str:
    arguments = config["arguments"]
    sizes: Any = next((arguments[key] for key in ("shape", "image_shape", "observation_shape") if key in arguments), [])
    shape = ", ".join(str(int(size)) for size in sizes)
    if config["model"] in FLOWS:
        return (FLOW_OF_IMAGES if arguments.get("levels") else FLOW_OF_POINTS).format(model=model, shape=shape)
    if not (config["model"] == "image-diffusion" and arguments.get("num_classes")):
        return USES[config["model"]].format(model=model, shape=shape)
    columns = arguments["num_classes"]
    first = [0] * len(columns) if isinstance(columns, list) else 0
    return ASK.format(model=model, shape=shape, asked=LABELS[data], first=first)


def _plain(value: Any) -> str:
    """A value on one line, without what Markdown, HTML or a terminal would act upon."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(value).split()))
    return html.escape(text, quote=False).replace("`", "'").replace("|", "&#124;").replace("](", "] (")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"a metric must be a finite number, got {_plain(value)!r}")
    return float(value)


def _summary(config: dict[str, Any], folder: Path) -> str:
    arguments = ", ".join(f"`{_plain(key)}` {_plain(value)}" for key, value in config["arguments"].items())
    return f"Class `{config['model']}`, {in_bytes((folder / WEIGHTS).stat().st_size)} of weights: {arguments}."


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    rows = ["| metric | value | how |", "| --- | --- | --- |"]
    for metric, entry in metrics.items():
        size = _number(entry["size"])
        error = _number(entry["spread"]) / math.sqrt(size)
        rows.append(f"| {metric} | {entry['value']:.4f} ± {error:.4f} | {_plain(entry['protocol'])} ({size:.0f}) |")
    return "\n".join(rows)


def _animation(results: dict[str, Any], pictures: str) -> str:
    """A flow's way from noise to data, or a policy's clip."""
    name = results.get("animation")
    return f"![{name.removesuffix('.gif')}]({pictures}{name})" if name in (ANIMATION, CLIP) else ""


def _judge(results: dict[str, Any]) -> str:
    if not results.get("judge"):
        return ""
    judge = results["judge"]
    return (
        f"The features are those of `{_plain(judge['name'])}`, which reads {100 * judge['test_accuracy']:.2f} % of the "
        "test images right. A feature-FID compares with another only under the same network, sample sizes and split."
    )


def _environment(config: dict[str, Any]) -> str:
    arguments = config["origin"].get("environment_arguments") or {}
    said = f" with {_plain(arguments)}" if arguments else ""
    return f"`{_plain(config['origin'].get('data'))}` of Gymnasium{said}."


def _training_seeds(results: dict[str, Any]) -> str:
    """What the same config gave from every training seed: the one that ships is the median."""
    entry = results.get("by_training_seed")
    if not entry:
        return ""
    values = {_plain(seed): _number(value) for seed, value in entry["values"].items()}
    ordered, count = sorted(values.values()), len(values)
    mean = sum(ordered) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in ordered) / max(1, count - 1))
    middle = ordered[count // 4 : count - count // 4]
    each = ", ".join(f"seed {seed}: {value:.4f}" for seed, value in values.items())
    return (
        f"{count} training seeds, by the same protocol: {_plain(entry['metric'])} {mean:.4f} ± "
        f"{spread / math.sqrt(count):.4f}, standard deviation {spread:.4f}, interquartile mean "
        f"{sum(middle) / len(middle):.4f} ({each}). The median is the one here."
    )


def _training(config: dict[str, Any], name: str) -> str:
    origin, versions = config["origin"], config["origin"].get("versions", config["versions"])
    given = name if name in shipped() else TRAINING
    return (
        f"`lightning-zoo fit --config {given}` (the resolved config is `train.yaml`), seed {_plain(origin['seed'])}, "
        f"{origin['steps']:,} steps, commit `{_plain(origin['commit'] or 'unknown')}`, "
        + ", ".join(f"{_plain(package)} {_plain(number)}" for package, number in versions.items())
        + "."
    )
