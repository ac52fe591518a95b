import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import tests.environments
from datamodules import Replay
from datamodules.experience import replay
from datamodules.experience.replay import ReplayBuffer, TransitionCollector, read_state, write_state
from datamodules.experience.vector import make_vector
from zoo.errors import UserError
from zoo.rl.off_policy.actors import Actor
from zoo.rl.types import Transitions

GAMMA = 0.5
VECTORIZATIONS = ("sync", "async", "native")


def policy():
    torch.manual_seed(0)
    return Actor((2,), (2,), hidden=(4,))


def collected(vectorization, n_step, vector_steps=40, count=3, scale=1.0):
    envs = make_vector("zoo-counting-v0", count, vectorization, None)
    made = TransitionCollector(envs, GAMMA, n_step, scale=scale)
    made.reset(policy(), seed=5)
    rows, seen = made.collect(policy(), vector_steps * count)
    envs.close()
    return Transitions.unpack(torch.from_numpy(rows), 1), seen, made


@pytest.mark.parametrize("n_step", [1, 2, 3, 9])
@pytest.mark.parametrize("vectorization", VECTORIZATIONS)
def test_every_row_is_what_the_counting_environment_did(vectorization, n_step):
    rows, seen, made = collected(vectorization, n_step)
    assert 120 <= seen < 123, "steps that only reset are not counted"
    assert len(rows.rewards) <= seen
    assert seen - len(rows.rewards) <= 3 * (n_step - 1), "a few wait for their n-th step"
    for (n, episode), reward, discount, (following, then) in zip(
        rows.observations.tolist(),
        rows.rewards.tolist(),
        rows.discounts.tolist(),
        rows.next_observations.tolist(),
        strict=True,
    ):
        length = 2 + episode % 3
        steps = int(min(n_step, length - n))
        assert (following, then) == (n + steps, episode), "the true observation, at the end of an episode too"
        assert reward == sum(GAMMA**k * (n + k + 1) for k in range(steps))
        terminated = following == length and episode % 2 == 0
        assert discount == (0 if terminated else GAMMA**steps), "what was truncated is led on"
    lengths = [length for _, length in made.episodes]
    assert lengths
    assert [value for value, _ in made.episodes] == [n * (n + 1) / 2 for n in lengths]


def test_rewards_are_scaled_in_rows_and_not_in_returns():
    (plain, _, told), (scaled, _, told_scaled) = (collected("sync", 2, scale=scale) for scale in (1.0, 0.25))
    assert torch.equal(scaled.rewards, 0.25 * plain.rewards)
    assert torch.equal(scaled.discounts, plain.discounts)
    assert told_scaled.episodes == told.episodes


def test_actions_are_kept_within_one_and_scaled_at_the_border():
    seen = []

    class Watching(tests.environments.Counting):
        action_space = Box(np.float32([-3.0, 0.0]), np.float32([3.0, 1.0]))

        def step(self, action):
            seen.append(action.copy())
            return super().step(0)

    gym.register("zoo-seen-v0", Watching)
    actor = Actor((2,), (), (-3.0, 0.0), (3.0, 1.0), (4,))
    made = TransitionCollector(make_vector("zoo-seen-v0", 1, "sync", None), GAMMA, hold=3)
    made.reset(actor, seed=0)
    warm, _ = made.collect(actor, 30, random=True)
    rows, _ = made.collect(actor, 30)
    actions = Transitions.unpack(torch.from_numpy(np.concatenate([warm, rows])), 2).actions
    assert actions.abs().max() <= 1
    # of 30 transitions in about 42 steps; those that reset have an action too
    assert 10 <= len(actions[:30].unique(dim=0)) <= 16, "random actions are held for three steps"
    given = torch.tensor(np.stack(seen))
    assert torch.equal(torch.unique(actor.to_environment(actions), dim=0), torch.unique(given, dim=0))


def test_the_ring_keeps_the_newest():
    buffer = ReplayBuffer(7, 2)
    for start in range(0, 30, 3):
        buffer.add(np.stack([np.arange(start, start + 3)] * 2, 1).astype(np.float32))
        held = sorted(buffer.rows[: buffer.size, 0].tolist())
        assert held == [*range(max(0, start - 4), start + 3)]
    sample = buffer.sample(2000)
    assert sample.shape == (2000, 2)
    assert sorted(sample[:, 0].unique().tolist()) == held
    buffer.add(np.zeros((16, 2), np.float32))
    assert buffer.size == 7
    assert buffer.rows.eq(0).all()


def test_a_saved_buffer_is_restored_exactly(tmp_path):
    buffer, again = ReplayBuffer(50, 3), ReplayBuffer(50, 3)
    for count in (20, 45):  # a part of it, then all, having gone round
        buffer.add(np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32))
        write_state(tmp_path / "replay.pt", buffer.state())
        assert (tmp_path / "replay.pt").stat().st_size < 12 * buffer.size + 3000, "no more than what is there"
        again.restore(read_state(tmp_path / "replay.pt"))
        assert (again.size, again.position) == (buffer.size, buffer.position)
        states = []
        for one in (buffer, again):
            one.add(np.ones((4, 3), np.float32))
            torch.manual_seed(1)
            states.append(one.sample(30))
        assert torch.equal(*states)
    (tmp_path / "replay.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match="not a whole replay buffer"):
        read_state(tmp_path / "replay.pt")
    with pytest.raises(UserError, match="does not exist"):
        read_state(tmp_path / "other.pt")


@pytest.mark.parametrize("seen", [5, 7, 17])
@pytest.mark.parametrize("capacity", [3, 7, 20])
def test_a_buffer_of_another_capacity_takes_over_the_newest(seen, capacity):
    rows = np.arange(40, dtype=np.float32)[:, None]
    buffer, other = ReplayBuffer(7, 1), ReplayBuffer(capacity, 1)
    for start in range(seen):
        buffer.add(rows[start : start + 1])
    other.restore(buffer.state())
    for n in range(seen, seen + 10):
        kept = min(seen, 7, capacity) + n - seen
        assert sorted(other.rows[: other.size, 0].tolist()) == [*range(n - min(kept, capacity), n)]
        other.add(rows[n : n + 1])


def test_a_buffer_beyond_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(replay, "free_memory", lambda device: 1_000_000_000)
    monkeypatch.setattr(torch, "empty", None)
    with pytest.raises(UserError, match=r"takes 168.0 GB, but cpu has 1.0 GB free: .* at most 5,952,380"):
        ReplayBuffer(1_000_000_000, 42)


def test_memory_is_counted():
    assert 1e7 < replay.free_memory(torch.device("cpu")) < 1e14


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"update_every": 3, "replay_ratio": 0.5}, "data.update_every 3 times data.replay_ratio 0.5"),
        ({"replay_ratio": 0.0}, "must be a whole number of minibatches, got 0"),
        ({"replay_ratio": float("nan")}, "must be a whole number"),
        ({"reward_scale": 0.0}, "data.reward_scale must be positive and finite, got 0.0"),
        ({"num_envs": 2, "update_every": 3}, "data.update_every must be a multiple of data.num_envs 2"),
        ({"capacity": 0}, "data.capacity must be at least 1, got 0"),
        ({"n_step": 0}, "data.n_step must be at least 1"),
        (
            {"n_step": 8, "warmup_env_steps": 6},
            "data.warmup_env_steps must be 7 for rows of data.n_step 8 steps, or more",
        ),
        ({"warmup_env_steps": 0}, "data.warmup_env_steps"),
        ({"warmup_hold": 0}, "data.warmup_hold"),
        ({"update_every": 0}, "data.update_every must be at least 1"),
        ({"environment": "Pendulun-v1"}, "did you mean Pendulum-v1"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Replay(**({"environment": "Pendulum-v1"} | options))


def test_numbers_that_are_not_finite_are_told():
    made = TransitionCollector(make_vector("zoo-broken-v0", 2, "sync", {"where": 1}), GAMMA)
    made.reset(policy(), seed=0)
    with pytest.raises(UserError, match="environment 0 returned a reward that is not finite at its step 3"):
        made.collect(policy(), 20)
