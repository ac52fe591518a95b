"""All parameters of a small network in one vector: one gradient, one clipping, one optimizer step for all of them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


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
        return torch.cat([part.flatten() for part in parts.values()]).detach(), more


class FlatAdam(torch.optim.Optimizer):
    """Adam on one vector: the functional Adam of PyTorch, fused, without what `torch.optim.Adam.step` asks first.

    Those questions (is a graph being captured? are there hooks?) take longer than the step of a small network.

    Args:
        vector: the parameters. learning_rate, epsilon: of Adam; the betas are 0.9 and 0.999.

    References:
        Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """

    def __init__(self, vector: nn.Parameter, learning_rate: float, epsilon: float = 1e-5) -> None:
        super().__init__([vector], {"lr": learning_rate, "eps": epsilon})
        self.vector = vector
        zeros = torch.zeros_like(vector, requires_grad=False)
        count = torch.zeros((), device=vector.device)
        self.state[vector] = {"step": count, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}

    @torch.no_grad()
    def update(self, gradient: Tensor, max_norm: float | None = None) -> None:
        """One step along a gradient, which is shortened in place to at most `max_norm`, if that is given."""
        if max_norm is not None:
            gradient.mul_((max_norm / (gradient.norm() + 1e-6)).clamp_(max=1.0))
        state, group = self.state[self.vector], self.param_groups[0]
        adam(
            [self.vector],
            [gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise NotImplementedError("FlatAdam takes its gradient by `update`")


class FlatRMSprop(torch.optim.Optimizer):
    """RMSprop on one vector: v <- alpha v + (1 - alpha) g^2, theta <- theta - rate g / (sqrt(v) + epsilon).

    That is PyTorch's. With `inside` it is TensorFlow's: g / sqrt(v + epsilon), v from 1 instead of 0, so that the first
    steps are short. For small v, epsilon inside the root is worth its square root outside of it.

    Args:
        vector: the parameters. learning_rate, epsilon: of RMSprop. alpha: of the mean square.

    References:
        Mnih et al. 2016, arXiv:1602.01783, section 4.5, has epsilon inside.
    """

    def __init__(
        self,
        vector: nn.Parameter,
        learning_rate: float,
        epsilon: float = 1e-5,
        alpha: float = 0.99,
        inside: bool = False,
    ) -> None:
        super().__init__([vector], {"lr": learning_rate, "eps": epsilon})
        self.vector, self.alpha, self.inside = vector, alpha, inside
        start = torch.ones_like if inside else torch.zeros_like
        self.state[vector] = {"square_avg": start(vector, requires_grad=False)}

    @torch.no_grad()
    def update(self, gradient: Tensor, max_norm: float | None = None) -> None:
        """One step along a gradient, which is shortened in place to at most `max_norm`, if that is given."""
        if max_norm is not None:
            gradient.mul_((max_norm / (gradient.norm() + 1e-6)).clamp_(max=1.0))
        group, square = self.param_groups[0], self.state[self.vector]["square_avg"]
        square.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
        epsilon = group["eps"]
        root = (square + epsilon).sqrt_() if self.inside else square.sqrt().add_(epsilon)
        self.vector.addcdiv_(gradient, root, value=-group["lr"])

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise NotImplementedError("FlatRMSprop takes its gradient by `update`")


# "rmsprop" has epsilon outside the root, as PyTorch; "rmsprop-inside" inside, as TensorFlow
OPTIMIZERS: dict[str, Callable[..., FlatAdam | FlatRMSprop]] = {
    "adam": FlatAdam,
    "rmsprop": FlatRMSprop,
    "rmsprop-inside": partial(FlatRMSprop, inside=True),
}
