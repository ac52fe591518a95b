"""All parameters of a small network in one vector: one gradient, one clipping, one optimizer step for all of them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class FlatParameters:
    """The parameters of a module as views of one vector: what changes one changes the other.

    Small networks spend their time between operations, not in them: 13 parameters updated one by one cost more than
    their gradients. Names, shapes and `state_dict` of the module stay as they are.

    Args:
        module: on its final device; a later move would part its parameters from the vector.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        named = dict(module.named_parameters())
        self.shapes = {name: parameter.shape for name, parameter in named.items()}
        self.vector = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in named.values()]))
        for (name, part), parameter in zip(self.split(self.vector.detach()), named.values(), strict=True):
            assert name in named
            parameter.data = part

    def split(self, vector: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The names of the parameters, and their parts of a vector, in their shapes."""
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return ((name, part.view(shape)) for (name, shape), part in zip(self.shapes.items(), parts, strict=True))

    def gradient(self, loss: Callable[..., tuple[Tensor, Any]], *inputs: Any) -> tuple[Tensor, Any]:
        """d/d vector of loss(parameters, *inputs) -> (number, whatever else); the gradient and whatever else.

        Runs the same eagerly and, whole, through `torch.compile`.
        """
        # by part and then joined: the gradient of each view by itself would be a vector of zeros around it
        parts, more = torch.func.grad(loss, has_aux=True)(dict(self.split(self.vector.detach())), *inputs)
        return torch.cat([part.flatten() for part in parts.values()]), more
