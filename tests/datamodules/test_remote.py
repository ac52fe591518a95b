"""Environments in Ray actors, and what is lost with a worker: the transition in flight, and nothing else."""

import socket
import time

import numpy as np
import pytest
import torch

import tests.environments
from datamodules.experience.collector import Collector
from datamodules.experience.remote import ADDRESS
from datamodules.experience.replay import TransitionCollector
from datamodules.experience.vector import close_vector, make_vector
from tests.environments import NativeCounting
from zoo.errors import UserError
from zoo.rl.off_policy.actors import Actor
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Transitions

GAMMA = 0.5


class Lossy(NativeCounting):
    """Three environments whose episodes have 4 to 6 steps; the worker of the second dies in some of them."""

    def __init__(self, deaths):
        super().__init__(3, first_length=4)
        self.deaths, self.steps = deaths, 0

    def step(self, actions):
        observations, rewards, terminated, truncated, info = super().step(actions)
        self.steps += 1
        if self.steps not in self.deaths:
            return observations, rewards, terminated, truncated, info
        self.n[1], self.episode[1], self.over[1] = 0, self.episode[1] + 1, False
        observations, lost = self._observation(), np.array([False, True, False])
        return observations, rewards * ~lost, terminated & ~lost, truncated & ~lost, {"lost": lost}


def test_a_rollout_is_cut_before_a_lost_transition():
    made = Collector(Lossy(deaths=(3, 8)), 7)
    made.reset(0)
    torch.manual_seed(0)
    policy = ActorCritic((2,), (2,), hidden=(4,))
    first, second = made.collect(policy), made.collect(policy)
    # steps 1 and 2, a death, steps 1 to 4 of the next episode; a death at once, in the next rollout
    assert first.observations[:, 1, 0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert first.valid[:, 1].tolist() == [True, True, False, True, True, True, True]
    assert first.truncated[:, 1].tolist() == [False, True, False, False, False, False, False], "bootstraps from step 2"
    assert not first.terminated[:, 1].any()
    assert second.observations[:4, 1].tolist() == [[4, 1], [0, 2], [1, 2], [2, 2]]
    assert second.valid[:, 1].tolist() == [False] + [True] * 6
    others = torch.tensor([0, 2])
    whole = Collector(NativeCounting(3, first_length=4), 7)
    whole.reset(0)
    undisturbed = whole.collect(policy)
    for got, expected in zip(first[2:6], undisturbed[2:6], strict=True):
        assert torch.equal(got[:, others], expected[:, others]), "the other environments notice nothing"
    assert first.episode_lengths.tolist() == [4, 4], "of the other two: an episode that was lost is not counted"


@pytest.mark.parametrize("n_step", [1, 3])
def test_no_row_of_a_replay_buffer_joins_two_episodes_over_a_lost_transition(n_step):
    made = TransitionCollector(Lossy(deaths=(3, 8, 9, 20)), GAMMA, n_step)
    torch.manual_seed(0)
    policy = Actor((2,), (2,), hidden=(4,))
    made.reset(policy, 0)
    rows = Transitions.unpack(torch.from_numpy(made.collect(policy, 80)[0]), 1)
    cut = 0
    for (n, episode), reward, discount, (following, then) in zip(
        rows.observations.tolist(), rows.rewards.tolist(), rows.discounts.tolist(), rows.next_observations.tolist(),
        strict=True,
    ):  # fmt: skip
        steps = int(following - n)
        assert then == episode
        assert 1 <= steps <= n_step
        assert reward == sum(GAMMA**k * (n + k + 1) for k in range(steps))
        length = 4 + episode % 3
        assert discount == (0 if following == length and episode % 2 == 0 else GAMMA**steps)
        cut += steps < n_step and following < length
    assert cut == (0 if n_step == 1 else 4), "two rows each before the first and the fourth death; none before the rest"
    assert all(length in (4, 5, 6) for _, length in made.episodes)


def test_a_missing_ray_is_answered_with_its_pip_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lightning-zoo\[ray\]'"):
        make_vector("CartPole-v1", 2, "ray", None)


@pytest.fixture
def ray():
    module = pytest.importorskip("ray")
    yield module
    module.shutdown()


def test_an_address_that_does_not_answer_is_told_at_once(ray, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    began = time.perf_counter()
    for address in (f"127.0.0.1:{free}", f"ray://127.0.0.1:{free}"):
        monkeypatch.setenv(ADDRESS, address)
        with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"):
            make_vector("CartPole-v1", 2, "ray", None)
    assert time.perf_counter() - began < 30
    monkeypatch.setenv(ADDRESS, "somewhere")
    with pytest.raises(UserError, match=r"RAY_ADDRESS must be host:port or ray://host:port, got 'somewhere'"):
        make_vector("CartPole-v1", 2, "ray", None)


def test_actors_collect_what_one_process_collects_and_a_dead_one_is_replaced(ray):
    torch.manual_seed(0)
    policy = ActorCritic((4,), (2,), hidden=(4,))
    rollouts = {}
    for kind in ("ray", "sync"):
        envs = make_vector("CartPole-v1", 2, kind, None)
        made = Collector(envs, 40)
        made.reset(7)
        torch.manual_seed(1)
        rollouts[kind] = made.collect(policy)
        if kind == "sync":
            close_vector(envs)
            continue
        ray.kill(envs._workers[0])
        after = made.collect(policy)
        assert not after.valid[0, 0]
        assert after.observations[1, 0].abs().max() <= 0.05, "a new episode"
        assert after.valid[1, 0]
        assert after.valid[:, 1].sum() > 30
        close_vector(envs)
        assert not ray.is_initialized(), "what was started is stopped"
    for ours, theirs in zip(rollouts["ray"], rollouts["sync"], strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_what_an_environment_raises_is_raised(ray, tmp_path, monkeypatch):
    assert tests.environments  # registers it
    monkeypatch.setenv("RECORDED", str(tmp_path))
    envs = make_vector("zoo-recorded-v0", 1, "ray", {"fails_at": 2})
    try:
        envs.reset(seed=0)
        envs.step(np.array([0]))
        with pytest.raises(RuntimeError, match="the robot fell over"):
            envs.step(np.array([0]))
    finally:
        close_vector(envs)
