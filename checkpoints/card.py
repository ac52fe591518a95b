"""The model card, README.md of a model folder: written from its config.json and results.json, never by hand.

Both files may come from an untrusted source, so their values are shown as plain text: no markup, no HTML.
"""

import html
import inspect
import math
import re
from pathlib import Path
from typing import Any, TypeGuard

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
from checkpoints.table import class_of
from checkpoints.tasks import GUIDED, TASKS
from zoo.errors import UserError

NAME = re.compile(r"[\w.-]{1,96}", re.ASCII)  # what the Hub accepts
ENVIRONMENT = re.compile(r"[\w./-]{1,96}", re.ASCII)  # a name in Gymnasium's registry
LEAST_SEEDS = 5  # from so many training seeds on, an interquartile mean says something
EXACT = ("density", "likelihood", "score")  # protocols whose models are shown with their density


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
        raise UserError(f"{folder} has values that no card can show: {type(error).__name__}: {_plain(error)}") from None


def _render(described: Description, config: dict[str, Any], results: dict[str, Any], name: str, model: str) -> str:
    task, dataset = TASKS[described.task], dataset_of(described.data)
    plays = described.task in ("policy", "team")
    label = _plain(dataset.label)
    metrics = {_plain(metric): entry for metric, entry in results["metrics"].items()}
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
        "## Use\n\n" + _use(described, model),
        "## Numbers\n\n" + _table(metrics),
        _judge(results),
        _training_seeds(results),
        f"Measured by `{_plain(results['command'])}`; `lightning-zoo evaluate {model}` measures them again. "
        "The value is a mean over the stated sample size, with its standard error.",
        "## Training\n\n" + _training(described, name),
        f"## {'Environment' if plays else 'Data'}\n\n{_plain(dataset.about)}",
        f"## Licence\n\nWeights: {_plain(licence)}." + f" Data: {_plain(data_licence)}." * (not plays),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _captions(metrics: dict[str, Any]) -> dict[str, str]:
    plane = "nll_minus_floor_nats" in metrics
    drawn = "The true density, the learned density, and samples" if plane else "Test data, and samples of the model"
    return {
        PICTURE: drawn,
        ANIMATION: "From noise to samples",
        CLIP: "The beginning of an evaluation episode, at its own speed",
    }


def _use(described: Description, model: str) -> str:
    """The lines that load the model and do what it is for: shown on the card, and run by the tests."""
    lines = {"policy": _use_of_policy, "team": _use_of_team, "classifier": _use_of_classifier}.get(
        described.task, _use_of_sampler
    )
    return lines(described, model)


def _use_of_team(described: Description, model: str) -> str:
    environment = described.data.get("arguments", {}).get("environment")
    agents = [int(size) for size in described.arguments["observation_sizes"]]
    video = "" if str(environment).startswith("matrix/") else " --video team.mp4"
    python = [
        f'team = load("{model}")',
        "team.reset(1)  # before each episode",
        f"actions = team.act(torch.zeros({len(agents)}, {max(agents)}))  # one for each agent, from what it observes",
    ]
    return _blocks([f"lightning-zoo rollout {model} --episodes 10 --seed 0{video}"], python)


def _use_of_sampler(described: Description, model: str) -> str:
    kind: Any = class_of(described.model)
    images = described.task == "images"
    options = inspect.signature(kind.sample).parameters
    columns = described.arguments.get("num_classes") or []
    columns = [columns] if isinstance(columns, int) else columns
    guided = "guidance_scale" in options and described.arguments.get("null_label")
    flags = f" --labels {_asked(described, columns)}" * bool(columns) + " --guidance-scale 2" * bool(guided)
    count = 64 if images else 2000
    what = "images" if images else "points"
    shape = ", ".join(str(int(size)) for size in _shape(described))
    file = "samples.png" if images or shape == "2" else "samples.csv"
    bash = [f"lightning-zoo sample {model} --num-samples {count} --seed 0{flags} --output {file}"]
    python = [f'model = load("{model}")']
    given = "generator=torch.Generator().manual_seed(0)"
    if columns:
        python.append(f"labels = torch.tensor([{[0] * len(columns) if len(columns) > 1 else 0}] * 16)")
        given = "labels=labels" + ", guidance_scale=2.0" * bool(guided)
    python.append(f"{what} = model.sample(16, {given})  # (16, {shape})" + " in [-1, 1]" * images)
    if described.protocol in EXACT and hasattr(kind, "log_likelihood"):
        if shape == "2":
            bash.append(f"lightning-zoo density {model} --output density.png")
        python.append(f"nats = model.log_likelihood({what}{', labels=labels' * bool(columns)})  # (16,)")
    return _blocks(bash, python)


def _use_of_classifier(described: Description, model: str) -> str:
    kind: Any = class_of(described.model)
    shape = ", ".join(str(int(size)) for size in _shape(described))
    python = [f'model = load("{model}")']
    if "t" not in inspect.signature(kind.forward).parameters:
        python.append(f"probabilities = model(torch.zeros(1, {shape})).softmax(dim=1)  # of images in [-1, 1]")
        return _blocks([], python)
    options = f"--classifier {model} --labels 7 --guidance-scale 3 --output sevens.png"
    guided = GUIDED.get(str(described.data.get("class")))
    guide = [f"lightning-zoo sample {guided} {options}"] if guided else []
    python.append(f"noised, t = torch.zeros(1, {shape}), torch.tensor([300])")
    python.append("probabilities = model(noised, t).softmax(dim=1)")
    return _blocks(guide, python)


def _use_of_policy(described: Description, model: str) -> str:
    arguments = described.data.get("arguments", {})
    environment, options = arguments.get("environment"), arguments.get("environment_arguments") or {}
    if not isinstance(environment, str) or not ENVIRONMENT.fullmatch(environment):
        raise UserError(f"{described.folder / CONFIG}: {environment!r:.50} cannot be the name of an environment")
    given = "".join(f", {key}={value}" for key, value in options.items() if key.isidentifier() and _is_number(value))
    bash = [f"lightning-zoo rollout {model} --episodes 10 --seed 0 --video policy.mp4"]
    python = [
        f'policy = load("{model}")',
        f'env = gym.make("{environment}"{given})',
        "observation, _ = env.reset(seed=0)",
        "observation, reward, terminated, truncated, _ = env.step(policy.predict(observation))",
    ]
    registers = "\nimport datamodules.experience.environments  # registers MinAtar" * environment.startswith("MinAtar/")
    return _blocks(bash, python, f"import gymnasium as gym\n{registers}")


def _blocks(bash: list[str], python: list[str], imports: str = "import torch\n") -> str:
    shell = "```bash\n" + "\n".join(bash) + "\n```\n\n" if bash else ""
    return shell + f"```python\n{imports}\nfrom checkpoints import load\n\n" + "\n".join(python) + "\n```"


def _shape(described: Description) -> list[Any]:
    keys = ("shape", "image_shape", "observation_shape")
    return next((described.arguments[key] for key in keys if key in described.arguments), [])


def _asked(described: Description, columns: list[int]) -> str:
    """An example of what can be asked for: the first name of each label column, or a number."""
    names = described.data.get("label_names")
    if names and all(re.fullmatch(r"[\w-]+", str(column[0])) for column in names):  # a word of the command line
        return ",".join(_plain(column[0]) for column in names)
    return ",".join(str(min(7, count - 1)) for count in columns)


def _plain(value: object) -> str:
    """A value on one line, without what Markdown, HTML or a terminal would act upon."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(value).split()))
    return html.escape(text, quote=False).replace("`", "'").replace("|", "&#124;").replace("](", "] (")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not _is_number(value):
        raise UserError(f"a metric must be a finite number, got {_plain(value)!r}")
    return float(value)


def _summary(described: Description) -> str:
    arguments = ", ".join(f"`{_plain(key)}` {_plain(value)}" for key, value in described.arguments.items())
    size = in_bytes((described.folder / WEIGHTS).stat().st_size)
    algorithm = f"{_plain(described.algorithm)}" + f" ({_plain(described.paper)})" * bool(described.paper)
    trained = f"Trained by {algorithm}. " if described.algorithm else ""
    return f"{trained}Class `{described.model}`, {size} of weights: {arguments}."


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    rows = ["| metric | value | how |", "| --- | --- | --- |"]
    for metric, entry in metrics.items():
        size = _number(entry["size"])
        error = _number(entry["spread"]) / math.sqrt(size)
        rows.append(f"| {metric} | {entry['value']:.4f} ± {error:.4f} | {_plain(entry['protocol'])} ({size:.0f}) |")
    return "\n".join(rows)


def _judge(results: dict[str, Any]) -> str:
    if not results.get("judge"):
        return ""
    judge = results["judge"]
    accuracy = f"{100 * judge['test_accuracy']:.2f} %"
    return (
        f"The features are those of `{_plain(judge['name'])}`, which classifies {accuracy} of "
        "the test images correctly. Feature-FIDs are comparable only with the same network, sample sizes and split."
    )


def _training_seeds(results: dict[str, Any]) -> str:
    """What the same config gave from every training seed: the one that ships is the median."""
    entry = results.get("by_training_seed")
    if not entry or len(entry["values"]) < 2:
        return ""
    values = {_plain(seed): _number(value) for seed, value in entry["values"].items()}
    ordered, count = sorted(values.values()), len(values)
    mean = sum(ordered) / count
    spread = math.sqrt(sum((value - mean) ** 2 for value in ordered) / max(1, count - 1))
    middle = ordered[count // 4 : count - count // 4]
    robust = f", interquartile mean {sum(middle) / len(middle):.4f}" if count >= LEAST_SEEDS else ""
    each = ", ".join(f"seed {seed}: {value:.4f}" for seed, value in values.items())
    return (
        f"{count} training seeds, by the same protocol: {_plain(entry['metric'])} {mean:.4f} ± "
        f"{spread / math.sqrt(count):.4f}, standard deviation {spread:.4f}{robust} ({each}). "
        f"The {'median' if count > 2 else 'better'} is the one here."
    )


def _training(described: Description, name: str) -> str:
    origin = described.origin
    versions = origin.get("versions", described.versions)
    given = name if name in shipped() else TRAINING
    return (
        f"`lightning-zoo fit --config {given}` (the resolved config is `train.yaml`), seed {_plain(origin['seed'])}, "
        f"{origin['steps']:,} steps, commit `{_plain(origin['commit'] or 'unknown')}`, "
        + ", ".join(f"{_plain(package)} {_plain(number)}" for package, number in versions.items())
        + "."
    )
