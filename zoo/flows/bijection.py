"""What every bijection offers, and the sum that all of them take."""

from typing import Protocol

import torch
from torch import Tensor


class Bijection(Protocol):
    """An invertible map that knows its log-determinant; see `zoo.flows`. Every one is also an `nn.Module`."""

    def __call__(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


def sum_entries(x: Tensor) -> Tensor:
    """Sum of all but the first dimension, (B, ...) -> (B,), in float32 at least."""
    dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else None
    return x.flatten(1).sum(1, dtype=dtype)
