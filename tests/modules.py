"""A LightningModule without a Trainer: what the tests of single steps share."""

import inspect
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

SHAPE, LEVELS = (3, 8, 4), 17


def alone(kind: type[L.LightningModule], **options: Any) -> Any:
    """A module whose trainer is a stub, with random weights in the layers that start at zero; notes what it logs."""
    torch.manual_seed(0)
    sizes = {"image_shape": SHAPE, "channels": 4, "num_timesteps": 20}
    if "levels" in inspect.signature(kind).parameters:
        sizes["levels"] = LEVELS
    module: Any = kind(**sizes | options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    module.trainer = SimpleNamespace(global_step=1, log_every_n_steps=50, world_size=1)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.update({name: value})
    return module


def batch(*classes: int, size: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images of 17 grey levels, and labels: (size,) for one column of so many classes, (size, columns) for several."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, LEVELS, (size, *SHAPE), generator=generator) / 8 - 1
    columns = [torch.randint(0, count, (size,), generator=generator) for count in classes]
    return images, columns[0] if len(columns) == 1 else torch.stack(columns, dim=1)


def note_calls(monkeypatch: Any, kind: type[nn.Module], name: str) -> list[SimpleNamespace]:
    """Notes the arguments of a method and its answer, call by call, by the names in its signature."""
    calls: list[SimpleNamespace] = []
    original = getattr(kind, name)
    signature = inspect.signature(original)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = original(self, *arguments, **named)
        bound = signature.bind(self, *arguments, **named)
        bound.apply_defaults()
        calls.append(SimpleNamespace(answer=answer, **bound.arguments))
        return answer

    monkeypatch.setattr(kind, name, method)
    return calls
