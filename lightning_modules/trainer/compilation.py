"""How the gradients of policies are compiled."""

import functools
import shutil
from collections.abc import Callable
from types import FunctionType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info


def should_compile(module: L.LightningModule, pays: bool) -> bool:
    """The module's option `compile`; if it is None, whether compiling pays and a compiler exists."""
    wanted: bool | None = module.hparams["compile"]
    if wanted is None:
        wanted = pays and (module.device.type == "cuda" or shutil.which("g++") is not None)
    if wanted:
        _say_compiling()
    return wanted


@functools.cache  # several networks, one message
def _say_compiling() -> None:
    rank_zero_info("compiling the updates takes about half a minute; --model.compile false avoids it")


def compile_whole(function: Any, device: torch.device) -> Callable[..., Any]:
    """Compiles a function of tensors whose shapes never change in a run.

    Guards are skipped: checking them would take as long as the update of a small network. PyTorch caches compiled code
    by code object. A second closure over other networks shares it and, without guards, would run on the networks of the
    first. So the code object is copied.
    """
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    if device.type == "cpu":
        options["cpp_wrapper"] = True
    return torch.compile(copied, fullgraph=True, options=options)
