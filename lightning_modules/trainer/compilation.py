"""The one way in which gradients of policies are compiled."""

import shutil
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch


def compiled(module: Any, function: Any, pays: bool) -> Callable[..., Any]:
    """A function of tensors compiled whole, if the module's option `compile` says so, or nothing and it pays.

    Args:
        module: that calls it, with tensors of the same shapes throughout a run.
        pays: whether the run is long enough; a compiler must be there too.
    """
    wanted = module.hparams["compile"]
    if wanted is None:
        has_compiler = module.device.type == "cuda" or shutil.which("g++") is not None
        wanted = has_compiler and pays
    if not wanted:
        return function
    # Every call of a run has the same shapes, and asking whether that is so would take as long as a small update. What
    # is compiled is kept with the code, which another module of this process shares: unasked, it would get this one's
    # networks. So the code is copied.
    function = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    if module.device.type == "cpu":
        options["cpp_wrapper"] = True
    return torch.compile(function, fullgraph=True, options=options)
