"""Policies: networks that act, with the normaliser of their observations and the bounds of their actions inside."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from zoo.rl.convolutions import Convolutions
from zoo.rl.distributions import Categorical, DiagonalGaussian, StateDependentGaussian
from zoo.rl.moments import RunningMoments
from zoo.rl.types import Spaces


class Tanh(nn.Module):
    """tanh(x) = 2 sigmoid(2x) - 1, within 2e-7 in float32, and in a third of the time on a CPU.

    PyTorch's tanh is exact to the last bit near 0, which no policy needs; it was half of a gradient step.
    """

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * x) - 1


LARGEST_RANGE = 1e38  # of an action: what is beyond it overflows in float32
ACTIVATIONS = {"tanh": Tanh, "relu": nn.ReLU}


class Evaluation(NamedTuple):
    """What a policy says of observations and actions, each (...,)."""

    log_prob: Tensor
    entropy: Tensor
    values: Tensor


class Policy(nn.Module):
    """What all policies are: the sizes of their spaces, and actions in the units of the environment.

    Inside, continuous actions lie in [-1, 1]; the environment gets low + (clip(a) + 1) / 2 (high - low). A policy has a
    `distribution` and `outputs(observations)`, what that needs: the head's output and the features before it.

    Args:
        observation_shape, num_actions, action_low, action_high: as `ActorCritic`.
        hidden: widths of its network.

    Raises:
        ValueError: if the actions are neither discrete nor continuous, or a size is not positive.
    """

    low: Tensor
    high: Tensor
    distribution: Any
    labels = ()

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...],
        action_low: tuple[float, ...],
        action_high: tuple[float, ...],
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        if bool(num_actions) == bool(action_low) or len(action_low) != len(action_high):
            raise ValueError("a policy needs num_actions, or action_low and action_high of one length, but not both")
        bounds = [*zip(action_low, action_high, strict=True)]
        if not all(low < high and high - low <= LARGEST_RANGE for low, high in bounds):
            raise ValueError(f"action_low must be below action_high, both finite, got {action_low} and {action_high}")
        if not hidden or not observation_shape or min((*hidden, *num_actions, *observation_shape)) < 1:
            raise ValueError("hidden and observation_shape must not be empty, and all sizes positive")
        self.observation_shape, self.num_actions = tuple(observation_shape), tuple(num_actions)
        self.register_buffer("low", torch.tensor(action_low), persistent=False)
        self.register_buffer("high", torch.tensor(action_high), persistent=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.observation_shape

    @property
    def action_size(self) -> int:
        """A: how many discrete or continuous actions are taken at once."""
        return len(self.num_actions) or len(self.low)

    @property
    def spaces(self) -> Spaces:
        """What it knows of its environment, as its own first four arguments."""
        return {
            "observation_shape": self.observation_shape,
            "num_actions": self.num_actions,
            "action_low": tuple(self.low.tolist()),
            "action_high": tuple(self.high.tolist()),
        }

    def reset(self, n: int) -> None:
        """Begins n episodes: a policy of the last observation alone has nothing to forget."""

    def predict(
        self, observations: ArrayLike, explore: bool = False, generator: torch.Generator | None = None
    ) -> np.ndarray[Any, Any]:
        """`act` from NumPy to NumPy: `env.step(policy.predict(observation))`."""
        given = torch.as_tensor(np.asarray(observations), device=self.low.device)
        actions: np.ndarray[Any, Any] = self.act(given, explore, generator).cpu().numpy()
        return actions[()]  # of one discrete action a number

    @torch.no_grad()
    def act(self, observations: Tensor, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Actions for an environment: the most probable ones, or with `explore` drawn ones.

        Args:
            observations: (*observation_shape) or (N, *observation_shape), of any type of numbers. uint8 is divided by
                255, as in training; a single whole number stands for its one-hot vector, that of a Discrete space.

        Returns:
            () or (N,) int64 for one discrete action, (A,) or (N, A) for several (int64) or continuous ones (float32).

        Raises:
            ValueError: if the observations have another shape.
        """
        observations = self._prepare(observations)
        batch = observations.reshape(-1, *self.observation_shape)
        if explore:
            noise = self.distribution.noise(1, len(batch), generator)[0].to(batch.device)
            actions = self.draw(batch, noise)
        else:
            actions = self.distribution.mode(self.outputs(batch)[0])
        actions = self.to_environment(actions)
        return actions if observations.ndim > len(self.observation_shape) else actions[0]

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """(N, *observation_shape) -> what `distribution` needs: the output of the head, and the features before it."""
        raise NotImplementedError

    def draw(self, observations: Tensor, noise: Tensor) -> Tensor:
        """(N, ...), a row of `distribution.noise` -> (N, A), before they are brought into the bounds."""
        outputs, features = self.outputs(observations)
        return self.distribution.sample(outputs, features, noise)

    def to_environment(self, actions: Tensor) -> Tensor:
        """(N, A) as drawn -> what an environment takes: (N,) or (N, A) int64, or (N, A) float32 within the bounds."""
        if self.num_actions:
            chosen = actions.long()
            return chosen[..., 0] if len(self.num_actions) == 1 else chosen
        scaled = self.low + (actions.clamp(-1, 1) + 1) * (0.5 * (self.high - self.low))
        return torch.minimum(torch.maximum(scaled, self.low), self.high)  # which rounding may have left

    def _prepare(self, observations: Tensor) -> Tensor:
        if observations.ndim == 0 and not observations.is_floating_point():
            observations = torch.nn.functional.one_hot(observations.long(), self.observation_shape[0])
        elif observations.dtype == torch.uint8:
            observations = observations / 255
        observations = observations.to(self.low.dtype)
        shape = tuple(observations.shape)
        if shape != self.observation_shape and shape[1:] != self.observation_shape:
            raise ValueError(f"observations must be of shape {self.observation_shape}, one or a batch, got {shape}")
        return observations


class ActorCritic(Policy):
    """pi(a | s) and V(s), two networks or one trunk with two heads.

    Observations (..., *observation_shape) are flattened and, if asked, normalised by running moments. Weights begin
    orthogonal, with gain sqrt(2) in the trunks, 0.01 at the actor's head, 1 at the critic's; biases at 0.

    Args:
        observation_shape: of one observation.
        num_actions: choices of each discrete action: (n,) for Discrete, (n_1, ..., n_A) for MultiDiscrete, () for Box.
        action_low, action_high: finite bounds of each continuous action, () for discrete ones. The policy works in
            [-1, 1]; the environment gets low + (clip(a) + 1) / 2 (high - low).
        hidden: widths of the trunk.
        activation: "tanh" or "relu".
        shared: whether actor and critic share their trunk.
        log_std: where the logarithm of the standard deviation of continuous actions begins.
        exploration: "independent" noise at each step, or "state-dependent".
        hold: steps for which state-dependent noise is held.
        normalize: whether to normalise observations.
        channels: of `Convolutions` before the trunk, for pictures; their activation is ReLU.

    Raises:
        ValueError: if the actions are neither discrete nor continuous, or a value is not among those named.

    References:
        Andrychowicz et al. 2021, arXiv:2006.05990, sections 3.2 and 3.3 (small actor head, two trunks, normalisation).
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...] = (),
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared: bool = False,
        log_std: float = 0.0,
        exploration: str = "independent",
        hold: int = 4,
        normalize: bool = False,
        channels: tuple[int, ...] = (),
    ) -> None:
        super().__init__(observation_shape, num_actions, action_low, action_high, hidden)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if exploration not in ("independent", "state-dependent"):
            raise ValueError(f"exploration must be 'independent' or 'state-dependent', got {exploration!r}")
        if hold < 1:
            raise ValueError(f"hold must be positive, got {hold}")
        self.distribution = _distribution(num_actions, len(action_low), exploration, hidden[-1], log_std, hold)
        self.actor_trunk = _trunk(observation_shape, channels, hidden, activation)
        self.critic_trunk = None if shared else _trunk(observation_shape, channels, hidden, activation)
        self.actor_head = _linear(hidden[-1], self.distribution.outputs, 0.01)
        self.critic_head = _linear(hidden[-1], 1, 1.0)
        self.normalizer = RunningMoments((math.prod(observation_shape),)) if normalize else None

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self._actor(self._inputs(observations))

    def values(self, observations: Tensor) -> Tensor:
        """V(s), (..., *observation_shape) -> (...,)."""
        return self._critic(self._inputs(observations))

    def forward(self, observations: Tensor, actions: Tensor) -> Evaluation:
        """log pi(a | s), the entropy of pi(. | s) and V(s), for (..., *observation_shape) and (..., A) as drawn."""
        inputs = self._inputs(observations)
        outputs, features = self._actor(inputs)
        return Evaluation(
            self.distribution.log_prob(outputs, features, actions),
            self.distribution.entropy(outputs, features),
            self._critic(inputs, features),
        )

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two observations, and actions drawn for them."""
        observations = torch.randn((2, *self.shape), generator=generator)
        drawn = self.draw(observations, self.distribution.noise(1, 2, generator)[0])
        return {"observations": observations, "actions": drawn.detach()}

    def _inputs(self, observations: Tensor) -> Tensor:
        inputs = observations.flatten(-len(self.observation_shape))
        return inputs if self.normalizer is None else self.normalizer.normalize(inputs)

    def _actor(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.actor_trunk(inputs)
        return self.actor_head(features), features

    def _critic(self, inputs: Tensor, features: Tensor | None = None) -> Tensor:
        if self.critic_trunk is not None:
            features = self.critic_trunk(inputs)
        elif features is None:
            features = self.actor_trunk(inputs)
        return self.critic_head(features)[..., 0]


def _distribution(
    num_actions: tuple[int, ...], size: int, exploration: str, features: int, log_std: float, hold: int
) -> Categorical | DiagonalGaussian | StateDependentGaussian:
    if num_actions:
        if exploration != "independent":
            raise ValueError("exploration 'state-dependent' is for continuous actions: use 'independent'")
        return Categorical(tuple(num_actions))
    if exploration == "independent":
        return DiagonalGaussian(size, log_std)
    return StateDependentGaussian(size, features, log_std, hold)


def _trunk(
    shape: tuple[int, ...], channels: tuple[int, ...], hidden: tuple[int, ...], activation: str
) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = math.prod(shape)
    if channels:
        convolutions = Convolutions(shape, channels, math.sqrt(2))
        layers, inputs = [convolutions], convolutions.features
    for width in hidden:
        layers += [_linear(inputs, width, math.sqrt(2)), ACTIVATIONS[activation]()]
        inputs = width
    return nn.Sequential(*layers)


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
