"""What the methods that learn from rollouts share: the training step, annealing, the count of transitions, options."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Statistics, mean_statistics, sum_over_processes
from lightning_modules.trainer.compilation import should_compile
from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.progress import count_env_steps, log_training, start_clock
from zoo.errors import UserError
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.policy_gradient import policy_gradient_loss
from zoo.rl.on_policy.returns import linear_recurrence
from zoo.rl.types import Rollout, Spaces


def build(module: Any, spaces: Spaces, **given: Any) -> None:
    """`model`, an actor-critic; `return_moments`; `env_steps`; no running returns. Sets manual optimisation."""
    module.automatic_optimization = False
    module.model = construct(module, "actor-critic", **spaces, **given)
    module.return_moments = RunningMoments()  # of discounted returns; no part of the policy
    module.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
    begin_episodes(module)


def start(module: Any) -> None:
    """`on_fit_start`: checks the precision, and starts the clock and new episodes."""
    if module.trainer.precision == "16-mixed":
        raise UserError("trainer.precision 16-mixed rounds log-probabilities too far: use 32-true or bf16-mixed")
    start_clock(module)
    begin_episodes(module)


def begin_episodes(module: Any) -> None:
    """Forgets the discounted returns of episodes that go on: the environments were reset."""
    module.running_returns = None


def policy_gradient_optimizer(module: Any, pays: bool) -> Optimizer:
    """`loss` and `learner` of a method that takes one gradient step a rollout; the optimizer of the latter.

    Args:
        pays: whether a compiled gradient is worth its compilation.
    """
    hp = module.hparams
    weights = {name: hp[name] for name in ("value_weight", "entropy_weight")}
    module.loss = partial(policy_gradient_loss, policy=module.model, **weights)
    module.learner = Learner(
        module.model,
        hp["learning_rate"],
        epsilon=hp["epsilon"],
        max_norm=hp["max_grad_norm"],
        compile=should_compile(module, pays),
        optimizer=hp["optimizer"],
    )
    return module.learner.optimizer


@torch.no_grad()
def learn_from_rollouts(module: Any, batch: Iterable[Rollout], batch_idx: int) -> None:
    """`training_step`: `module.learn(rollout)` for each rollout, whose statistics are averaged and logged once."""
    statistics: list[Statistics] = []
    returns: list[float] = []
    lengths: list[int] = []
    for rollout in batch:  # each is collected when it is asked for
        if not isinstance(rollout, Rollout):
            raise UserError(f"{type(module).__name__} learns from rollouts: set data.class_path to Experience")
        statistics += module.learn(rollout)
        returns += rollout.episode_returns.tolist()
        lengths += rollout.episode_lengths.tolist()
    rate: float = module.learner.optimizer.param_groups[0]["lr"]
    log_training(module, mean_statistics(statistics) | {"learning_rate": rate}, returns, lengths)


def check_minibatches(module: Any, rollout: Rollout) -> None:
    """Raises a UserError unless minibatches divide a rollout."""
    rows, size = rollout.rewards.numel(), module.hparams["minibatch_size"]
    if rows % size:
        raise UserError(
            f"the {rows} rows (data.num_envs x data.rollout_steps) of a rollout must be a multiple of "
            f"model.minibatch_size {size}"
        )


def anneal(module: Any) -> float:
    """Sets the learning rate, with `anneal` falling linearly to 0 over the run; the share of the run that is left."""
    left = max(0.0, 1.0 - float(module.env_steps) / module.hparams["total_env_steps"])
    for group in module.learner.optimizer.param_groups:
        group["lr"] = module.hparams["learning_rate"] * (left if module.hparams["anneal"] else 1.0)
    return left


def count(module: Any, rollout: Rollout) -> Tensor:
    """Adds up, over processes, transitions and moments of returns; the `sums` of observations, flat.

    They are for `merge_observations`, after the updates, which see what the actions were chosen by.
    """
    if rollout.log_probs is not None and not hasattr(module, "takes_old_rollouts"):
        raise UserError(
            f"data.ahead 1 gives rollouts of the policy before the last update, but {type(module).__name__} learns "
            "from its own: set data.ahead 0, or use IMPALA"
        )
    valid = rollout.valid
    parts = [valid.sum()[None].double()]
    if module.model.normalizer is not None:
        parts.append(RunningMoments.sums(_discounted(module, rollout)[valid]).flatten())
        parts.append(RunningMoments.sums(rollout.observations[:-1].flatten(2)[valid]).flatten())
    message = sum_over_processes(torch.cat(parts))
    count_env_steps(module, message[0])
    if module.model.normalizer is not None:
        module.return_moments.merge(message[1:4].view(3))
    return message[4:]


def merge_observations(module: Any, observed: Tensor) -> None:
    """Takes what `count` returned into the moments of observations, if the policy has them."""
    if module.model.normalizer is not None:
        module.model.normalizer.merge(observed.view(3, -1))


def _discounted(module: Any, rollout: Rollout) -> Tensor:
    """(T, N), R_t = r_t + gamma R_{t-1} within an episode: what the running moments of returns are of."""
    if module.running_returns is None:  # environments begin anew, in a resumed run too
        module.running_returns = torch.zeros_like(rollout.rewards[0])
    goes_on = ~(rollout.terminated | rollout.truncated)
    decay = module.hparams["gamma"] * torch.cat([torch.ones_like(goes_on[:1]), goes_on[:-1]]).float()
    first = torch.cat([(rollout.rewards[0] + decay[0] * module.running_returns)[None], rollout.rewards[1:]])
    returns = linear_recurrence(first.flip(0), decay.flip(0)).flip(0)
    module.running_returns = returns[-1] * goes_on[-1]
    return returns


def check(
    module: Any,
    positive: Iterable[str] = (),
    shares: Iterable[str] = (),
    optional: Iterable[str] = (),
    weights: Iterable[str] = (),
) -> None:
    """Raises a UserError for values with which nothing could be learned.

    Args:
        positive: options above 0. shares: from 0 to 1. optional: above 0, or None. weights: at least 0 and finite.
    """
    hp = module.hparams
    for name in ("total_env_steps", "learning_rate", *positive):
        if not hp[name] > 0:
            raise UserError(f"model.{name} must be positive, got {hp[name]}")
    for name in ("gamma", *shares):
        if not 0 <= hp[name] <= 1:
            raise UserError(f"model.{name} must be between 0 and 1, got {hp[name]}")
    for name in optional:
        if hp[name] is not None and not hp[name] > 0:
            raise UserError(f"model.{name} must be positive or null, got {hp[name]}")
    for name in weights:
        if not 0 <= hp[name] < math.inf:
            raise UserError(f"model.{name} must be at least 0 and finite, got {hp[name]}")
