"""Whole episodes: what a return depends on, how many environments are open, and what never ends."""

import gymnasium as gym
import pytest
import torch

import tests.environments
from datamodules.experience.environments import make
from datamodules.experience.episodes import ROWS, play
from zoo.errors import UserError
from zoo.rl.policies import ActorCritic


class Watched:
    """A policy that remembers what it was asked."""

    shape, low = (1,), torch.zeros(0)

    def __init__(self):
        self.batches, self.resets = [], []

    def reset(self, n):
        self.resets.append(n)

    def act(self, observations, explore=False, generator=None):
        self.batches.append(observations.clone())
        return torch.zeros(len(observations), dtype=torch.int64)


def test_returns_depend_on_seed_and_policy_alone():
    torch.manual_seed(0)
    actor = ActorCritic((4,), (2,), hidden=(64, 64))
    together = play(actor, lambda: make("CartPole-v1"), range(3, 26))
    assert together.lengths.tolist() == [int(value) for value in together.returns]
    for seeds in ([7], [25, 3], [13, 23, 3]):  # the last of one row
        alone = play(actor, lambda: make("CartPole-v1"), seeds)
        assert alone.returns.tolist() == [float(together.returns[seed - 3]) for seed in seeds]


def test_a_policy_sees_batches_of_one_shape_and_each_seed_its_row():
    policy = Watched()
    played = play(policy, tests.environments.Alone, [12, 4, 22])
    assert played.lengths.tolist() == [3, 5, 3]
    assert {batch.shape for batch in policy.batches} == {(ROWS, 1)}
    assert [batch[2].item() for batch in policy.batches[:3]] == [12, 13, 14]
    assert policy.batches[3][4].item() == 4
    assert policy.resets == [ROWS] * 3, "a policy with a state begins each time"


def test_simulators_that_allow_one_instance_play_all_episodes():
    played = play(Watched(), lambda: make("zoo-alone-v0"), range(12))
    assert played.lengths.tolist() == [1 + seed % 5 for seed in range(12)]
    assert tests.environments.Alone.running == 0, "closed"


def test_few_environments_are_open_and_all_are_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDED", str(tmp_path))
    monkeypatch.setattr(Watched, "shape", (2,))
    with pytest.raises(RuntimeError, match="fell over"):
        play(Watched(), lambda: make("zoo-recorded-v0", {"fails_at": 4}), range(30))
    names = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert names.count("opened") == names.count("closed") == ROWS


def test_an_episode_without_an_end_is_an_error():
    class Endless(gym.Env):
        observation_space, action_space = tests.environments.Alone.observation_space, gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    words = (
        "the episode from seed 5 has not ended after 50 steps: give the environment a limit, .*, or raise --max-steps"
    )
    with pytest.raises(UserError, match=words):
        play(Watched(), Endless, [5], max_steps=50, option="--max-steps")
