"""Derivatives inside sampling, under `torch.no_grad` and `torch.inference_mode` alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


def vector_jacobian(
    function: Callable[[Tensor], Tensor], x: Tensor, cotangents: Iterable[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """function(x) and v^T d function / d x for each v; works under `torch.no_grad` and `torch.inference_mode`.

    Lightning predicts and validates in inference mode, which `torch.enable_grad` does not undo. The network computes in
    float32 (float64 if x is), whatever the autocast type: gradients in half precision underflow.

    Args:
        function: (B, ...) -> any shape. It may hold weights that were made in inference mode.
        x: where to differentiate, (B, ...).
        cotangents: each v, of the shape of function(x); may be a generator.

    Returns:
        function(x), detached, and one tensor of the shape of x for each v.
    """
    try:
        return _vector_jacobian(function, x, cotangents)
    except RuntimeError as error:
        if "Inference tensors" not in str(error):
            raise
    with _OrdinaryTensors():  # weights that were made in inference mode: autograd keeps copies of them instead
        return _vector_jacobian(function, x, cotangents)


def _vector_jacobian(
    function: Callable[[Tensor], Tensor], x: Tensor, cotangents: Iterable[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        leaf = x.clone().detach()  # the clone of an inference tensor, made here, is an ordinary one
        leaf = (leaf if leaf.dtype == torch.float64 else leaf.float()).requires_grad_()
        value = function(leaf)
        products = [_product(value, leaf, v.clone()) for v in cotangents]
    return value.detach(), products


def _product(value: Tensor, leaf: Tensor, cotangent: Tensor) -> Tensor:
    if not value.requires_grad:  # a function that does not depend on x
        return torch.zeros_like(leaf)
    (product,) = torch.autograd.grad(value, leaf, cotangent, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if product is None else product


class _OrdinaryTensors(TorchFunctionMode):
    """Hands every operation an ordinary copy of each inference tensor among its arguments."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Tensor, _ordinary, (args, kwargs or {}))
        return func(*args, **kwargs)


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
