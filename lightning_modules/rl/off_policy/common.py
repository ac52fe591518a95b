"""What the methods that learn from a replay buffer share around their updates."""

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_modules.trainer import compilation
from lightning_modules.trainer.progress import log_metrics
from zoo.errors import UserError

NAME = "actor"  # in the table of models
LONG = 20_000  # updates from which compiling pays: it takes half a minute, and saves a few milliseconds an update


def compiled(module: Any, function: Any) -> Any:
    """As `compilation.compiled`, where the updates of the run are many."""
    return compilation.compiled(module, function, pays=module.hparams["total_env_steps"] >= LONG)


def prepare(module: Any, *networks: Any) -> None:
    """At the start of a fit: the precision of networks, the clock, and what training needs of its data."""
    precision = module.trainer.precision
    if precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"trainer.precision {precision} is not known to {type(module).__name__}: 32-true or bf16-mixed")
    for network in networks:
        network.in_bfloat16 = precision == "bf16-mixed"
    module.began = (time.perf_counter(), int(module.env_steps))


def fall(module: Any) -> None:
    """Lets all learning rates fall linearly to 0 over the run, if the module says so."""
    left = (
        max(0.0, 1 - float(module.env_steps) / module.hparams["total_env_steps"]) if module.hparams["anneal"] else 1.0
    )
    for optimizer in module.optimizers(use_pl_optimizer=False):
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * left


def averaged(module: L.LightningModule, gradient: Tensor) -> Tensor:
    """The mean of a gradient over processes."""
    if module.trainer.world_size > 1:
        torch.distributed.all_reduce(gradient)
        gradient /= module.trainer.world_size
    return gradient


def conclude(module: Any, batch: Any, means: dict[str, float]) -> None:
    """At the end of a training step: counts transitions over processes, logs, and stops the run when it is due."""
    steps = torch.tensor(batch.env_steps, device=module.device)
    if module.trainer.world_size > 1:
        torch.distributed.all_reduce(steps)
    module.env_steps += steps
    began, before = module.began
    speed = (int(module.env_steps) - before) / (time.perf_counter() - began)
    metrics = {f"train/{name}": value for name, value in means.items()} | {"time/env_steps_per_s": speed}
    if batch.episodes:
        returns, lengths = zip(*batch.episodes, strict=True)
        metrics |= {"rollout/return": sum(returns) / len(returns), "rollout/length": sum(lengths) / len(lengths)}
    log_metrics(module, metrics)
    if module.env_steps >= module.hparams["total_env_steps"]:
        module.trainer.should_stop = True


def check(hparams: Any, positive: tuple[str, ...]) -> None:
    """Raises a UserError for values with which nothing could be learned."""
    for name in ("total_env_steps", *positive):
        if not 0 < hparams[name] < float("inf"):
            raise UserError(f"model.{name} must be positive and finite, got {hparams[name]}")
    if not 0 <= hparams["gamma"] <= 1:
        raise UserError(f"model.gamma must be between 0 and 1, got {hparams['gamma']}")
    if not 0 < hparams["tau"] <= 1:
        raise UserError(f"model.tau must be above 0 and at most 1, got {hparams['tau']}")


def check_continuous(algorithm: str, num_actions: tuple[int, ...]) -> None:
    """Raises a UserError where an algorithm meets discrete actions that it does not take."""
    if num_actions:
        raise UserError(
            f"{algorithm} takes continuous actions, but this environment has discrete ones: use SAC or PPO there"
        )
