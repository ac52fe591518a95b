"""The model card, README.md of a model folder: written from its config.json and results.json, never by hand."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from checkpoints.catalogue import CONFIG, RESULTS, WEIGHTS, read_json

PIPELINES = {"image-diffusion": "unconditional-image-generation", "image-classifier": "image-classification"}

DATASETS = {
    "digits": (
        "scikit-learn digits",
        "scikit-learn's digits: 1,797 hand-written digits, 8x8 pixels, 17 grey levels (the test part of UCI's Optical "
        "Recognition of Handwritten Digits, CC BY 4.0). Split by index: train 0-999, validation 1000-1349, "
        "test 1350-1796.",
    )
}

USES = {
    "image-diffusion": """```bash
lightning-zoo sample {name} --num-samples 64 --seed 0 --output digits.png
```

```python
import torch
from checkpoints import load
model = load("{name}")
images = model.sample(16, steps=50, generator=torch.Generator().manual_seed(0))  # (16, 1, 8, 8) in [-1, 1]
```""",
    "image-classifier": """```python
import torch
from checkpoints import load
model = load("{name}")
probabilities = model(torch.zeros(1, 1, 8, 8)).softmax(dim=1)  # images in [-1, 1]; model.features(x) for the features
```""",
}


def render(folder: Path) -> str:
    """The text of the card of a model folder that has its results."""
    config, results = read_json(folder / CONFIG), read_json(folder / RESULTS)
    name, data = folder.resolve().name, config["origin"]["data"]
    label, about = DATASETS[data]
    task = PIPELINES[config["model"]]
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="lightning-zoo",
        pipeline_tag=task,
        tags=["lightning", "pytorch", config["model"]],
        datasets=[data],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=data,
                dataset_name=label,
                dataset_split="test",
                metric_type=metric,
                metric_value=round(entry["value"], 6),
            )
            for metric, entry in results["metrics"].items()
        ],
    )
    return (
        "\n\n".join(
            [
                f"---\n{metadata.to_yaml()}\n---",
                f"# {name}",
                _summary(config, folder),
                f"![samples]({results['picture']})" if results.get("picture") else "",
                "## Use\n\n" + USES[config["model"]].format(name=name),
                "## Numbers\n\n" + _table(results["metrics"]),
                _judge(results),
                f"Measured by `{results['command']}`; `lightning-zoo evaluate {name}` measures them again. "
                "The value is a mean over the stated sample size, with its standard error.",
                "## Training\n\n" + _training(config, name),
                f"## Data\n\n{about}",
                "Weights: Apache-2.0.",
            ]
        ).replace("\n\n\n\n", "\n\n")
        + "\n"
    )


def _summary(config: dict[str, Any], folder: Path) -> str:
    arguments = ", ".join(f"`{key}` {value}" for key, value in config["arguments"].items())
    return f"A `{config['model']}` ({(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB of weights): {arguments}."


def _table(metrics: dict[str, dict[str, Any]]) -> str:
    rows = ["| metric | value | how |", "| --- | --- | --- |"]
    for metric, entry in metrics.items():
        error = entry["spread"] / entry["size"] ** 0.5
        rows.append(f"| {metric} | {entry['value']:.4f} ± {error:.4f} | {entry['protocol']} ({entry['size']}) |")
    return "\n".join(rows)


def _judge(results: dict[str, Any]) -> str:
    if not results.get("judge"):
        return ""
    judge = results["judge"]
    return (
        f"The features are those of `{judge['name']}`, which reads {100 * judge['test_accuracy']:.2f} % of the test "
        "images right. A feature-FID compares with another only under the same network, sample sizes and split."
    )


def _training(config: dict[str, Any], name: str) -> str:
    origin, versions = config["origin"], config["origin"].get("versions", config["versions"])
    return (
        f"`lightning-zoo fit --config {name}` (the resolved config is `train.yaml`), seed {origin['seed']}, "
        f"{origin['steps']:,} steps, commit `{origin['commit'] or 'unknown'}`, "
        + ", ".join(f"{package} {number}" for package, number in versions.items())
        + "."
    )
