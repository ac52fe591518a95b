"""What the methods that learn from a replay buffer share: options, the training step, deterministic actors."""

import copy
import math
from collections.abc import Iterable, Mapping
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
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.actors import Actor
from zoo.rl.off_policy.critics import Critics
from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.off_policy.td3 import td3_actor_loss, td3_critics_loss
from zoo.rl.off_policy.values import soft_update
from zoo.rl.types import Spaces

LONG = 20_000  # updates from which compiling pays: it takes half a minute, and saves a few milliseconds an update


def check(hparams: Mapping[str, Any], positive: Iterable[str]) -> None:
    """Raises a UserError for values with which nothing could be learned."""
    for name in ("total_env_steps", *positive):
        if not 0 < hparams[name] < math.inf:
            raise UserError(f"model.{name} must be positive and finite, got {hparams[name]}")
    if not 0 <= hparams["gamma"] <= 1:
        raise UserError(f"model.gamma must be between 0 and 1, got {hparams['gamma']}")
    if not 0 < hparams["tau"] <= 1:
        raise UserError(f"model.tau must be above 0 and at most 1, got {hparams['tau']}")


def check_noise(hparams: Mapping[str, Any], *names: str) -> None:
    """Raises a UserError for a standard deviation that is negative or not finite."""
    for name in names:
        if not 0 <= hparams[name] < math.inf:
            raise UserError(f"model.{name} must be at least 0 and finite, got {hparams[name]}")


def critics_for(actor: Actor, hidden: tuple[int, ...], count: int = 2) -> Critics:
    """Critics of Q(s, a), or for a discrete action of Q(s, .)."""
    inputs = math.prod(actor.observation_shape) + len(actor.low)
    return Critics(inputs, actor.num_actions[0] if actor.num_actions else 1, hidden, count)


def learner(module: Any, network: torch.nn.Module, learning_rate: float, max_norm: float | None = None) -> Learner:
    """A learner whose gradients are compiled if the module says so, or says nothing and the run is long."""
    pays = module.hparams["total_env_steps"] >= LONG
    return Learner(network, learning_rate, max_norm=max_norm, compile=should_compile(module, pays))


def set_precision_and_clock(module: Any) -> None:
    """`on_fit_start`: networks multiply in the precision of the Trainer, and speed is measured from here on."""
    precision = module.trainer.precision
    if precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision {precision} is not known to {type(module).__name__}: 32-true or bf16-mixed")
    for network in module.children():
        if isinstance(network, Actor | Critics | QNetwork):
            network.in_bfloat16 = precision == "bf16-mixed"
    start_clock(module)


def learn_from_rounds(module: Any, batch: Any, batch_idx: int) -> None:
    """`training_step`: an update for each minibatch of each round, `module.update(minibatch, *noises)`.

    Noise is drawn here, since compiled code draws none: `module.noises` times (B, A) for each minibatch.
    """
    check_replay(module, batch)
    anneal_learning_rates(module)
    updates: list[Statistics] = []
    with torch.no_grad(), torch.autocast(module.device.type, enabled=False):  # networks set their precision themselves
        for minibatches in batch:
            shape = module.noises, *minibatches.shape[:2], module.model.action_size
            for minibatch, *noises in zip(minibatches, *torch.randn(shape, device=module.device), strict=True):
                updates.append(module.update(minibatch, *noises))
    count_env_steps(module, sum_over_processes(torch.tensor(batch.env_steps, device=module.device)))
    log_training(module, mean_statistics(updates), *zip(*batch.episodes, strict=True))


def check_replay(module: Any, batch: Any) -> None:
    """Raises a UserError if a batch does not come from a replay buffer."""
    if not hasattr(batch, "episodes"):
        raise UserError(f"{type(module).__name__} learns from a replay buffer: set data.class_path to Replay")


def anneal_learning_rates(module: Any) -> None:
    """Sets all learning rates: with `anneal` they fall linearly to 0 over the run."""
    done = float(module.env_steps) / module.hparams["total_env_steps"]
    left = max(0.0, 1 - done) if module.hparams["anneal"] else 1.0
    for optimizer in module.trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * left


def build_deterministic(module: Any, spaces: Spaces, sigma: float, drift: bool, num_critics: int) -> None:
    """mu(s), Q_i(s, a) and a slow copy of each: `model`, `critics`, `target_actor`, `targets`."""
    if spaces["num_actions"]:
        raise UserError(
            f"{type(module).__name__} takes continuous actions, but this environment has discrete ones: "
            "use SAC or PPO there"
        )
    module.gamma = module.hparams["gamma"]
    module.model = construct(module, "actor", **spaces, kind="deterministic", sigma=sigma, drift=drift)
    module.critics = critics_for(module.model, module.hparams["hidden"], num_critics)
    module.target_actor = copy.deepcopy(module.model).requires_grad_(False)
    module.targets = copy.deepcopy(module.critics).requires_grad_(False)
    module.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))


def deterministic_optimizers(module: Any, critics_rate: float, actor_rate: float, **noise: Any) -> list[Optimizer]:
    """Learners of the critics and the actor, with their losses; `noise` is that of `td3_critics_loss`."""
    networks: dict[str, Any] = {"critics": module.critics, "targets": module.targets}
    module.critics_loss = partial(td3_critics_loss, **networks, target_actor=module.target_actor, **noise)
    module.actor_loss = partial(td3_actor_loss, actor=module.model, critics=module.critics)
    module.critics_learner = learner(module, module.critics, critics_rate)
    module.actor_learner = learner(module, module.model, actor_rate)
    module.target_vectors = [FlatParameters(network).vector for network in (module.targets, module.target_actor)]
    return [module.critics_learner.optimizer, module.actor_learner.optimizer]


def update_targets(module: Any) -> None:
    """w' <- tau w + (1 - tau) w', of the critics and of the actor."""
    sources: list[Tensor] = [module.critics_learner.vector, module.actor_learner.vector]
    for target, source in zip(module.target_vectors, sources, strict=True):
        soft_update(target, source, module.hparams["tau"])
