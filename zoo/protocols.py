"""What a model can do: structural protocols, which verbs, cards and measurements ask for instead of a class.

A model need not import this file. It is a `Sampler` if it has a `sample` of this form, and so on; one model may be
several of them.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """What every model says of itself.

    Attributes:
        shape: of one sample, or of one observation.
        labels: the number of classes of each label column; () for a model without labels.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def labels(self) -> tuple[int, ...]: ...

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Arguments of `forward`, a batch of two in the units of the model's data: its reference input."""


@runtime_checkable
class Sampler(Model, Protocol):
    """A model that draws samples; options of its own follow the named ones, each with its default."""

    def sample(self, n: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """(n, *shape)."""


@runtime_checkable
class Writer(Sampler, Protocol):
    """A sampler of texts, as tokens."""

    def text(self, tokens: Tensor) -> list[str]:
        """What each of the samples (n, T) reads."""


@runtime_checkable
class Density(Model, Protocol):
    """A model with a likelihood; options of its own follow the named ones, each with its default."""

    def log_likelihood(
        self, x: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B,) nats for x (B, *shape). Its documentation says whether it is exact, an estimate, or a lower bound."""


@runtime_checkable
class Player(Model, Protocol):
    """A model that acts; one with a state (recurrent, planning, a team) keeps it from `reset` on."""

    def reset(self, n: int) -> None:
        """Begins n episodes."""

    def act(self, observations: Tensor, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions for the environment, one a row of the observations."""
