"""A network that learns: the gradient of a loss, its mean over processes, a step of an optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.trainer.compilation import compile_whole
from zoo.rl.flat import OPTIMIZERS, FlatParameters

Statistics = dict[str, Tensor]  # what a loss says of itself: one number a name, or one a row
Loss = Callable[..., tuple[Tensor, Statistics]]


class Learner:
    """theta <- Adam(theta, mean over processes of d loss(theta, inputs) / d theta), all of theta in one vector.

    It is no module: a registered vector would enter `state_dict`. Create it in `configure_optimizers`, when the network
    is on its device.

    Args:
        network: whose parameters become views of `vector`.
        learning_rate, epsilon: of the optimizer. max_norm: to which a longer gradient is shortened.
        optimizer: a key of `zoo.rl.flat.OPTIMIZERS`.
        compile: whether gradients are compiled; then the shapes of inputs must not change.

    Attributes:
        vector: all parameters. optimizer: for `configure_optimizers` to return.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        *,
        epsilon: float = 1e-8,
        max_norm: float | None = None,
        compile: bool = False,
        optimizer: str = "adam",
    ) -> None:
        self.parameters = FlatParameters(network)
        self.vector = self.parameters.vector
        self.optimizer: Any = OPTIMIZERS[optimizer](self.vector, learning_rate, epsilon)
        self.max_norm, self.compile = max_norm, compile
        self._gradients: dict[Loss, Callable[..., tuple[Tensor, Statistics]]] = {}

    def step(self, loss: Loss, *inputs: Any) -> Statistics:
        """One step down the gradient of a loss; what the loss says of itself.

        Args:
            loss: (parameters by name, *inputs) -> (the loss, its statistics). The same object in every call: each loss
                is compiled once.
        """
        gradient, statistics = self.gradient(loss, *inputs)
        self.apply(gradient)
        return statistics

    def gradient(self, loss: Loss, *inputs: Any) -> tuple[Tensor, Statistics]:
        """The gradient and the statistics, both averaged over processes in one message.

        Statistics of one number a row stay with their process, whose rows they describe.
        """
        if loss not in self._gradients:
            self._gradients[loss] = self._prepare(loss)
        gradient, statistics = self._gradients[loss](*inputs)
        if _distributed():
            numbers = {name: value for name, value in statistics.items() if value.ndim == 0}
            message = sum_over_processes(torch.cat([gradient, torch.stack([*numbers.values()])]))
            message /= torch.distributed.get_world_size()
            gradient, means = message[: len(gradient)], message[len(gradient) :]
            statistics = statistics | dict(zip(numbers, means.unbind(), strict=True))
        return gradient, statistics

    def apply(self, gradient: Tensor) -> None:
        """One step of the optimizer along a gradient (parameters,)."""
        self.optimizer.update(gradient, self.max_norm)

    def _prepare(self, loss: Loss) -> Callable[..., tuple[Tensor, Statistics]]:
        parameters = self.parameters

        def gradient(*inputs: Any) -> tuple[Tensor, Statistics]:
            return parameters.gradient(loss, *inputs)

        return compile_whole(gradient, self.vector.device) if self.compile else gradient


def mean_statistics(updates: list[Statistics]) -> dict[str, float]:
    """The mean of each statistic over the updates that have it; one transfer from the device."""
    names = [*dict.fromkeys(name for statistics in updates for name in statistics)]
    means = [torch.stack([statistics[name] for statistics in updates if name in statistics]).mean() for name in names]
    return dict(zip(names, torch.stack(means).tolist(), strict=True))


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor over processes, in its place."""
    if _distributed():
        torch.distributed.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of a tensor over processes, in its place."""
    return sum_over_processes(x).div_(torch.distributed.get_world_size()) if _distributed() else x


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
