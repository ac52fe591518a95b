"""The one way in which gradients of policies are compiled."""

import functools
import shutil
from collections.abc import Callable
from types import FunctionType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info


def should_compile(module: L.LightningModule, pays: bool) -> bool:
    """What the module's option `compile` says; where it says nothing, whether compiling pays and a compiler exists."""
    wanted: bool | None = module.hparams["compile"]
    if wanted is None:
        wanted = pays and (module.device.type == "cuda" or shutil.which("g++") is not None)
    if wanted:
        rank_zero_info(
            "compiling the update: the first step takes about half a minute; --model.compile false avoids it"
        )
    return wanted


@functools.cache  # once, for several networks
def _say_compiling() -> None:
    rank_zero_info("compiling the updates takes about half a minute; --model.compile false avoids it")


def compile_whole(function: Any, device: torch.device) -> Callable[..., Any]:
    """Compiles a function of tensors whose shapes never change in a run.

    Guards are skipped: checking them would take as long as the update of a small network. Compiled code is kept with
    the code object, which a second closure over other networks would share and, unguarded, would get the first one's
    networks. So the code is copied.
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
