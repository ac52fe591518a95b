"""Whole episodes, to evaluate a policy."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from datamodules.experience.environments import check_finite, encoder
from zoo.errors import UserError
from zoo.rl.types import Episodes

ROWS = 10  # in every batch of observations
MAX_STEPS = 100_000  # of an episode

Env = gym.Env[Any, Any]


@torch.inference_mode()
def play(
    policy: Any,
    make: Callable[[], Env],
    seeds: Sequence[int],
    *,
    explore: bool = False,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, Env], None] | None = None,
    max_steps: int = MAX_STEPS,
    option: str | None = None,
) -> Episodes:
    """Plays one whole episode from each seed. Without exploration, a return depends only on the seed and the policy.

    Rounding depends on the shape of a batch and on the row. So the policy always sees ten rows, and the episode of seed
    s is in row s modulo ten. At most ten environments are open at once, and fewer where a simulator allows fewer; each
    plays several episodes.

    Args:
        policy: a `zoo.protocols.Player`. make: returns a new environment.
        explore: whether to sample actions; by default the policy takes the most probable one. generator: for sampling.
        on_step: called with (episode, its environment) after the reset and after each step.
        max_steps: a longer episode is an error. option: the option that sets it, for the error message.

    Raises:
        UserError: if an episode does not end, or a reward is not finite.
    """
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    envs = _open(make, min(ROWS, len(seeds)))
    try:
        encode = encoder(envs[0].observation_space)
        for wave in _waves(seeds, len(envs)):
            stage = dict(zip(wave, envs, strict=False))  # row -> environment
            policy.reset(ROWS)
            last = np.zeros((ROWS, *policy.shape), np.float32)
            for row, k in wave.items():
                last[row] = encode(stage[row].reset(seed=seeds[k])[0])
                if on_step:
                    on_step(k, stage[row])
            while wave:
                batch = torch.from_numpy(last).to(policy.low.device)
                actions = policy.act(batch, explore, generator).cpu().numpy()
                for row, k in [*wave.items()]:
                    observation, reward, terminated, truncated, _ = stage[row].step(actions[row])
                    last[row] = encode(observation)
                    returns[k] += float(reward)
                    lengths[k] += 1
                    if on_step:
                        on_step(k, stage[row])
                    if terminated or truncated:
                        del wave[row]
                    elif lengths[k] >= max_steps:
                        raise UserError(_endless(seeds[k], max_steps, option))
                check_finite(returns[None], "reward", int(lengths.max()))
    finally:
        for env in envs:
            env.close()
    return Episodes(torch.from_numpy(returns), torch.from_numpy(lengths))


def _open(make: Callable[[], Env], count: int) -> list[Env]:
    """Up to `count` environments, as many as can be open at once."""
    envs = [make()]
    for _ in range(count - 1):
        try:
            envs.append(make())
        except Exception:  # a simulator that allows only so many instances may raise anything
            break
    return envs


def _waves(seeds: Sequence[int], most: int) -> Iterator[dict[int, int]]:
    """Every episode once, as {row: episode}: at most `most` at a time, that of seed s in row s modulo ROWS."""
    waiting = [*range(len(seeds))]
    while waiting:
        wave: dict[int, int] = {}
        for k in waiting:
            if len(wave) < most:
                wave.setdefault(seeds[k] % ROWS, k)
        waiting = [k for k in waiting if k not in wave.values()]
        yield wave


def _endless(seed: int, max_steps: int, option: str | None) -> str:
    raised = f", or raise {option}" if option else ""
    return (
        f"the episode from seed {seed} has not ended after {max_steps:,} steps: give the environment a limit, "
        f"max_episode_steps where it is registered{raised}"
    )
