"""How models are measured: each protocol is one function, named in config.json and looked up here.

A protocol takes (model, described, *, full, say) and returns the metrics of a card, the headline first. `full` takes as
many draws as a card states; else few enough for ten minutes on two cores. `say` shows progress.
"""

import importlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import CONFIG, Description
from checkpoints.tasks import TASKS
from zoo.errors import UserError

if TYPE_CHECKING:
    from commands.measures.common import Metrics

PROTOCOLS = {  # name -> module here, and function
    "accuracy": "classifier:accuracy",
    "exact": "policy:exact",
    "exact-match": "sequences:exact_match",
    "density": "points:density",
    "forecast": "series:forecast",
    "guidance": "images:guidance",
    "guiding": "classifier:guiding",
    "likelihood": "likelihood:likelihood",
    "returns": "policy:returns",
    "samples": "images:samples",
    "score": "images:score",
    "shapes": "shapes:shapes",
    "team": "team:team",
    "text": "text:text",
}


def protocol_of(described: Description) -> Any:
    """The function that measures a model: the protocol that its config.json names, or the first of its task.

    Raises:
        UserError: if the protocol does not serve the model's task.
    """
    known = TASKS[described.task].protocols
    name = described.protocol or known[0]
    if name not in known:
        raise UserError(f"{described.folder / CONFIG}: 'protocol' must be one of {', '.join(known)}, got {name!r:.50}")
    module, _, function = PROTOCOLS[name].partition(":")
    return getattr(importlib.import_module(f"commands.measures.{module}"), function)


def measure(model: Any, described: Description, *, full: bool, say: Callable[[str], None]) -> "Metrics":
    """Every metric of a model by its protocol, the headline first.

    Raises:
        UserError: as `protocol_of` and the protocol itself, and if a metric is not finite.
    """
    metrics: Metrics = protocol_of(described)(model, described, full=full, say=say)
    for name, metric in metrics.items():
        if not math.isfinite(metric.value) or not math.isfinite(metric.spread):
            raise UserError(f"the metric {name!r} is not finite: the training of {described.folder} has diverged")
    return metrics
