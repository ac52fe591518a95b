"""The model card, README.md of a model folder: written from its config.json and results.json, never by hand.

Both files may come from an untrusted source, so their values are shown as plain text: no markup, no HTML.
"""

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
    Description,
    describe,
    in_bytes,
    read_json,
    shipped,
)
from checkpoints.datasets import dataset_of
from checkpoints.tasks import TASKS
from checkpoints.usage import is_number, plain, use
from zoo.errors import UserError

NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)  # what the Hub accepts
LEAST_SEEDS = 5  # from so many training seeds on, an interquartile mean says something


def render(folder: Path, model: str | None = None) -> str:
    """The text of the card of a model folder that has its results.

    Args:
        folder: its name is the model's, if there is no other.
        model: what a user loads it by, hf://owner/name; by default the folder's name.

    Raises:
        UserError: if the name is not one, or config.json or results.json lack what a card says.
    """
    name = (model or folder.resolve().name).rsplit("/", 1)[-1]
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a model: use letters, digits, '-', '_' and '.'")
    if not (folder / RESULTS).is_file():
        raise UserError(f"{folder} has no {RESULTS} to write a card from: measure it with `evaluate {folder} --update`")
    config, results, described = read_json(folder / CONFIG), read_json(folder / RESULTS), describe(folder)
    for key, kind in {"metrics": dict, "command": str}.items():
        if not isinstance(results.get(key), kind):
            what = "an object" if kind is dict else "a text"
            raise UserError(f"{folder / RESULTS} must hold {key!r}, {what}, for a card")
    try:
        return _render(described, config, results, name, model or name)
    except UserError:
        raise
    except Exception as error:  # values of any type come from files, so anything may be raised
        raise UserError(f"{folder} has values that no card can show: {type(error).__name__}: {plain(error)}") from None


def _render(described: Description, config: dict[str, Any], results: dict[str, Any], name: str, model: str) -> str:
    task, dataset = TASKS[described.task], dataset_of(described.data)
    plays = described.task in ("policy", "team")
    label = plain(dataset.label)
    metrics = {plain(metric): entry for metric, entry in results["metrics"].items()}
    licence = str(config.get("license", "apache-2.0" if name in shipped() else "unknown"))
    paper = [f"arxiv:{number}" for number in re.findall(r"arXiv:(\d{4}\.\d{4,5})", described.paper)]
    metadata = ModelCardData(
        license=licence if re.fullmatch(r"[a-z0-9.-]{1,40}", licence) and licence != "unknown" else None,
        library_name="lightning-zoo",
        pipeline_tag=task.pipeline,
        tags=["lightning", "pytorch", described.model, *paper],
        datasets=None,
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task.pipeline,
                dataset_type=label,
                dataset_name=label,
                dataset_split=None if plays else "test",
                metric_type=metric,
                metric_value=round(_number(entry["value"]), 6),
            )
            for metric, entry in metrics.items()
        ],
    )
    shown = [
        f"![{file.partition('.')[0]}]({file})\n\n*{text}.*"
        for file, text in _captions(metrics).items()
        if file in (results.get("picture"), results.get("animation"))
    ]
    data_licence = str(config.get("data_license") or dataset.licence or "unknown")
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {name}",
        _summary(described),
        *shown,
        "## Use\n\n" + use(described, model),
        "## Numbers\n\n" + _table(metrics),
        _judge(results),
        _training_seeds(results),
        f"Measured by `{plain(results['command'])}`; `lightning-zoo evaluate {model}` measures them again. "
        "The value is a mean over the stated sample size, with its standard error.",
        "## Training\n\n" + _training(described, name),
        f"## {'Environment' if plays else 'Data'}\n\n{plain(dataset.about)}",
        f"## Licence\n\nWeights: {plain(licence)}." + f" Data: {plain(data_licence)}." * (not plays),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _captions(metrics: dict[str, Any]) -> dict[str, str]:
    plane = "nll_minus_floor_nats" in metrics
    drawn = "The true density, the learned density, and samples" if plane else "Test data, and samples of the model"
    if "crps" in metrics:
        drawn = "Quantiles of samples given the past, beside what was observed"
    return {
        PICTURE: drawn,
        ANIMATION: "From noise to samples",
        CLIP: "The beginning of an evaluation episode, at its own speed",
    }


def _number(value: object) -> float:
    if isinstance(value, bool) or not is_number(value):
        raise UserError(f"a metric must be a finite number, got {plain(value)!r}")
    return float(value)


def _summary(described: Description) -> str:
    arguments = ", ".join(f"`{plain(key)}` {plain(value)}" for key, value in described.arguments.items())
    size = in_bytes((described.folder / WEIGHTS).stat().st_size)
    algorithm = f"{plain(described.algorithm)}" + f" ({plain(described.paper)})" * bool(described.paper)
    trained = f"Trained by {algorithm}. " if described.algorithm else ""
    return f"{trained}Class `{described.model}`, {size} of weights: {arguments}."


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    rows = ["| metric | value | how |", "| --- | --- | --- |"]
    for metric, entry in metrics.items():
        size = _number(entry["size"])
        error = _number(entry["spread"]) / math.sqrt(size)
        rows.append(f"| {metric} | {entry['value']:.4f} ± {error:.4f} | {plain(entry['protocol'])} ({size:.0f}) |")
    return "\n".join(rows)


def _judge(results: dict[str, Any]) -> str:
    if not results.get("judge"):
        return ""
    judge = results["judge"]
    accuracy = f"{100 * judge['test_accuracy']:.2f} %"
    return (
        f"The features are those of `{plain(judge['name'])}`, which classifies {accuracy} of "
        "the test images correctly. Feature-FIDs are comparable only with the same network, sample sizes and split."
    )


def _training_seeds(results: dict[str, Any]) -> str:
    """What the same config gave from every training seed: the one that ships is the median."""
    entry = results.get("by_training_seed")
    if not entry or len(entry["values"]) < 2:
        return ""
    values = {plain(seed): _number(value) for seed, value in entry["values"].items()}
    ordered, count = sorted(values.values()), len(values)
    mean = sum(ordered) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in ordered) / max(1, count - 1))
    middle = ordered[count // 4 : count - count // 4]
    robust = f", interquartile mean {sum(middle) / len(middle):.4f}" if count >= LEAST_SEEDS else ""
    each = ", ".join(f"seed {seed}: {value:.4f}" for seed, value in values.items())
    return (
        f"{count} training seeds, by the same protocol: {plain(entry['metric'])} {mean:.4f} ± "
        f"{spread / math.sqrt(count):.4f}, standard deviation {spread:.4f}{robust} ({each}). "
        f"The {'median' if count > 2 else 'better'} is the one here."
    )


def _training(described: Description, name: str) -> str:
    origin = described.origin
    versions = origin.get("versions", described.versions)
    given = name if name in shipped() else TRAINING
    return (
        f"`lightning-zoo fit --config {given}` (the resolved config is `train.yaml`), seed {plain(origin['seed'])}, "
        f"{origin['steps']:,} steps, commit `{plain(origin['commit'] or 'unknown')}`, "
        + ", ".join(f"{plain(package)} {plain(number)}" for package, number in versions.items())
        + "."
    )
