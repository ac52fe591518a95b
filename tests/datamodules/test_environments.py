"""What environments give at the border, and what is refused in one line."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import tests.environments
from datamodules import Experience, Replay
from datamodules.experience.collector import Collector
from datamodules.experience.environments import check_environment, encoder, spaces_of
from datamodules.experience.replay import TransitionCollector
from datamodules.experience.vector import make_vector
from zoo.errors import UserError
from zoo.rl.off_policy.actors import Actor
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Transitions

BOX = Box(-1.0, 1.0, (3,), np.float32)


def test_whole_numbers_become_one_hot():
    assert encoder(Discrete(3, start=2))(np.array([2, 4])).tolist() == [[1, 0, 0], [0, 0, 1]]
    data = Experience("FrozenLake-v1", num_envs=2, rollout_steps=5)
    assert data.spaces["observation_shape"] == (16,)
    policy = ActorCritic(**data.spaces, hidden=(4,))
    collector = Collector(make_vector("FrozenLake-v1", 2, "sync", None), 5)
    collector.reset(0)
    rollout = collector.collect(policy)
    assert torch.equal(rollout.observations.sum(-1), torch.ones(6, 2))
    assert rollout.observations[0, :, 0].tolist() == [1, 1], "the first field"
    assert policy.predict(5) == policy.predict(np.eye(16)[5])


def test_bytes_are_scaled():
    collector = Collector(make_vector("zoo-pixels-v0", 1, "sync", None), 1)
    collector.reset(0)
    policy = ActorCritic((2, 2, 1), (2,), hidden=(4,))
    observations = collector.collect(policy).observations
    torch.testing.assert_close(observations.flatten(2).mean(2)[:, 0], torch.tensor([0.2, 1.0]))
    replay = TransitionCollector(make_vector("zoo-pixels-v0", 1, "sync", None), 0.9)
    actor = Actor((2, 2, 1), (2,), hidden=(4,))
    replay.reset(actor, 0)
    rows = Transitions.unpack(torch.from_numpy(replay.collect(actor, 1)[0]), 1)
    torch.testing.assert_close(rows.observations[0], torch.full((4,), 0.2))
    seen = torch.full((2, 2, 1), 51, dtype=torch.uint8)
    given = policy._prepare(seen)
    torch.testing.assert_close(given, torch.full((2, 2, 1), 0.2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_policy_plugs_into_an_environment(name, dtype):
    env = gym.make(name)
    policy = Actor(**spaces_of(name, env.observation_space, env.action_space), hidden=(4,))
    first, _ = env.reset(seed=0)
    for observation in (first.astype(dtype), [first.astype(dtype)] * 3):
        actions = policy.predict(observation, explore=True)
        for action in np.reshape(actions, (-1, *env.action_space.shape)):
            assert env.action_space.contains(action)
    env.step(policy.predict(first))
    assert isinstance(policy.predict(first), np.int64 if name == "CartPole-v1" else np.ndarray)
    assert not policy.act(torch.from_numpy(first)).requires_grad
    env.close()


def test_actions_never_leave_their_bounds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        low = np.float32(rng.normal() * 10.0 ** rng.integers(-3, 4))
        high = np.float32(low + abs(rng.normal()) * 10.0 ** rng.integers(-3, 4))
        if not low < high:
            continue
        policy = Actor((1,), action_low=(float(low),), action_high=(float(high),), hidden=(2,))
        ends = policy.to_environment(torch.tensor([[-1.0], [1.0], [0.999999], [-0.999999]])).numpy()
        assert (ends >= low).all()
        assert (ends <= high).all()
    spaces = spaces_of("x", BOX, Box(-0.1, 0.1, (1,), np.float64))
    assert spaces["action_low"][0] >= -0.1
    assert spaces["action_high"][0] <= 0.1
    assert spaces_of("x", BOX, Box(0, 5e6, (1,)))["action_high"] == (5e6,)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (
            Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,)),
            "which are practically unbounded",
        ),
        (Box(0, 5, (2,), np.int32), "of integers: make them MultiDiscrete"),
    ],
)
def test_bounds_that_no_policy_can_use_are_refused(actions, words):
    with pytest.raises(UserError, match=words):
        spaces_of("x", BOX, actions)
    with pytest.raises(ValueError, match="both finite"):
        ActorCritic((3,), action_low=(-3.4e38,), action_high=(3.4e38,))


class Wrong(gym.Env):
    """Does one thing that Gymnasium does not."""

    observation_space, action_space = BOX, Discrete(2)

    def __init__(self, first=None, answer=None):
        good = np.zeros(3, np.float32)
        self.first = (good, {}) if first is None else first
        self.answer = (good, 0.0, False, False, {}) if answer is None else answer

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


GOOD = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"first": (np.zeros(4), {})}, r"reset returned an observation of shape \(4,\), but its space has \(3,\)"),
        ({"first": GOOD}, r"reset must return \(observation, info\)"),
        ({"first": (np.array(["a"] * 3), {})}, "reset returned an observation of type <U1"),
        ({"answer": (GOOD, 0.0, False, {})}, r"step must return \(observation, reward, terminated, truncated, info\)"),
        ({"answer": (GOOD, np.zeros(1), False, False, {})}, "step must return a number as the reward"),
        ({"answer": (np.zeros((3, 1)), 0.0, False, False, {})}, r"step returned an observation of shape \(3, 1\)"),
        ({"answer": KeyError("torque")}, "KeyError: 'torque'"),
    ],
)
def test_what_an_environment_does_wrong_is_one_line_that_names_it(change, words):
    with pytest.raises(UserError, match=f"environment mine-v0: {words}"):
        check_environment("mine-v0", Wrong(**change))


def test_an_environment_that_is_right_passes():
    for given in (np.zeros(3), np.zeros(3, np.int64), np.zeros(3, np.float16)):
        check_environment("mine-v0", Wrong(answer=(given, np.float32(1), np.bool_(False), False, {})))


def test_a_ratio_that_rounding_spoils():
    assert Replay("CartPole-v1", update_every=100, replay_ratio=0.29).updates_per_round == 29


def test_an_environment_without_a_limit_is_named():
    if "zoo-no-limit-v0" not in gym.registry:
        gym.register("zoo-no-limit-v0", tests.environments.Counting)
    with pytest.warns(UserWarning, match="zoo-no-limit-v0 is registered without max_episode_steps"):
        Experience("zoo-no-limit-v0").warn_without_limit()
