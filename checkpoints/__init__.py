"""Trained models: a name or a folder becomes a `zoo` model; those that ship with the project are in `shipped/`.

    from checkpoints import load

    model = load("ddpm-digits")
    images = model.sample(16, generator=torch.Generator().manual_seed(0))

`catalogue` needs nothing but the standard library; `load` and the rest bring in PyTorch when they are first used.
"""

from typing import TYPE_CHECKING, Any

from checkpoints.catalogue import shipped
from checkpoints.locate import find

if TYPE_CHECKING:
    from checkpoints.store import build, load, load_weights, save, verify

__all__ = ["build", "find", "load", "load_weights", "save", "shipped", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from checkpoints import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
