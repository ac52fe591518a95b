"""What models are for: the Hub's name of it, the verbs that serve it, and how it is measured by default."""

from typing import Any, NamedTuple

from checkpoints.table import MODELS


class Task(NamedTuple):
    """A purpose that several model classes share.

    Attributes:
        noun: what such a model is, for a sentence.
        pipeline: the Hugging Face Hub's tag.
        verbs: what the command line does with such a model.
        protocols: how it can be measured, keys of `commands.measures.PROTOCOLS`; the first unless its config.json names
            another.
    """

    noun: str
    pipeline: str
    verbs: tuple[str, ...]
    protocols: tuple[str, ...]


TASKS = {
    "images": Task(
        "a model of images",
        "unconditional-image-generation",
        ("sample", "density", "figure", "evaluate"),
        ("samples", "guidance", "likelihood", "score", "shapes"),
    ),
    "points": Task("a model of points", "other", ("sample", "density", "figure", "evaluate"), ("density",)),
    "classifier": Task("a classifier", "image-classification", ("evaluate",), ("accuracy", "guiding")),
    "policy": Task("a policy", "reinforcement-learning", ("rollout", "figure", "evaluate"), ("returns", "exact")),
    "sequences": Task(
        "a model of one sequence given another", "text-generation", ("sample", "evaluate"), ("exact-match",)
    ),
    "text": Task("a model of text", "text-generation", ("sample", "evaluate"), ("text",)),
    "series": Task("a model of a series", "time-series-forecasting", ("figure", "evaluate"), ("forecast",)),
    "team": Task("a team", "reinforcement-learning", ("rollout", "evaluate"), ("team",)),
}

# class of the data -> the shipped model that a noisy classifier guides
GUIDED = {"Digits": "ddpm-digits", "MNIST5k": "ddpm-mnist5k"}


def task_of(model: str, arguments: dict[str, Any]) -> str:
    """The task of a model class with these arguments, whose shape may say more than the class.

    A density of points is one of images if its shape is theirs, and images of one grey column are series.
    """
    task = MODELS[model].task
    shape = arguments.get("shape", arguments.get("image_shape"))
    if task not in ("points", "images") or not isinstance(shape, list | tuple) or len(shape) != 3:
        return task
    return "series" if (shape[0], shape[2]) == (1, 1) else "images"
