"""Shaped rewards in the rows of a replay buffer."""

import numpy as np
import pytest
import torch

from datamodules import Replay
from datamodules.experience.replay import TransitionCollector
from datamodules.experience.vector import make_vector
from zoo.errors import UserError
from zoo.rl.off_policy.q_network import QNetwork
from zoo.rl.shaping import mountain_car_energy, shaping
from zoo.rl.types import Transitions

GAMMA = 0.9


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_row_changes_by_the_potential_of_its_ends_and_returns_stay(n_step):
    """The n-step sum telescopes: gamma^n Phi(s_{t+n}) - Phi(s_t), at a truncation too."""
    rows, returns = [], []
    for potential in (None, mountain_car_energy):
        torch.manual_seed(0)
        policy = QNetwork((2,), (3,), hidden=(4,), epsilon=1.0)
        # 60 steps are an episode: both ends and truncations are met
        envs = make_vector("MountainCar-v0", 2, "sync", {"max_episode_steps": 60})
        made = TransitionCollector(envs, GAMMA, n_step, scale=0.5, potential=potential)
        made.reset(policy, 0)
        rows.append(Transitions.unpack(torch.from_numpy(made.collect(policy, 200)[0]), 1))
        returns.append(made.episodes)
        envs.close()
    plain, shaped = rows
    now, after = (torch.from_numpy(mountain_car_energy(part.double().numpy())) for part in plain[::4])
    expected = 0.5 * (plain.discounts * after - now)
    assert torch.allclose((shaped.rewards - plain.rewards).double(), expected, atol=1e-4)  # float32 sums of size 50
    assert returns[0] == returns[1]
    assert returns[0][0] == (-60.0, 60)


def test_nothing_follows_a_termination():
    states = np.array([[0.2, 0.01], [0.3, 0.0]])
    added = shaping(mountain_car_energy, states[:1], states[1:], np.array([True]), GAMMA)
    assert added == pytest.approx(-mountain_car_energy(states[:1]))


def test_an_unknown_potential_or_one_of_another_environment_is_refused():
    with pytest.raises(UserError, match=r"data\.shaping must be null or one of mountain_car_energy"):
        Replay("MountainCar-v0", shaping="energy")
    with pytest.raises(UserError, match=r"is for observations of shape \(2,\), but those of CartPole-v1"):
        Replay("CartPole-v1", shaping="mountain_car_energy")
