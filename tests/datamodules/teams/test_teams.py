"""Environments of teams: episodes with their true ends, seeds, padding, one interface for all, and what is refused."""

import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch

from datamodules.teams import environments
from datamodules.teams.environments import make_native, make_team
from datamodules.teams.episodes import evaluate, play
from tests.teams import Counting, Tupled
from zoo.errors import UserError
from zoo.teams.payoffs import PAYOFFS
from zoo.teams.policy import Team


@pytest.fixture(autouse=True)
def _ours(monkeypatch):
    """Environments of a user."""
    kinds = {"counting": {}, "leaving": {"leave": True}, "continuous": {"continuous": True}, "masked": {"masked": True}}
    kinds |= {"unlike": {"shapes": (2, 4), "actions": (3, 2)}}
    for name, options in kinds.items():
        monkeypatch.setitem(environments.PARALLEL, name, partial(Counting, **options))
    monkeypatch.setitem(gym.registry, "Tupled-v0", gym.envs.registration.EnvSpec("Tupled-v0", entry_point=Tupled))


def team_for(envs, **options):
    torch.manual_seed(0)
    return Team(**envs.spaces, **options)


def test_episodes_end_as_their_environments_say():
    envs = make_team("counting", 5)
    played = play(envs, team_for(envs, epsilon=1.0), [0, 1, 2, 3, None], explore=True)
    episodes = played.episodes
    assert played.lengths.tolist() == [1, 2, 3, 3, 0]
    assert episodes.valid.long().sum(0).tolist() == [1, 2, 3, 3, 0]
    assert episodes.terminated.nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]  # that of seed 3 is cut
    shown = episodes.observations[:, :, 0, 0]
    for n, length in enumerate([1, 2, 3, 3]):  # the true last observation, and nothing after it
        assert shown[: length + 1, n].tolist() == [*range(length + 1)]
        assert (episodes.rewards[length:, n] == 0).all()
    each = episodes.actions.double() + torch.arange(2)
    torch.testing.assert_close(played.of_agents[3], each[:, 3].sum(0))
    torch.testing.assert_close(played.returns, played.of_agents.sum(1))
    assert (episodes.observations[:, :4, :, 1] == torch.tensor([0.0, 1.0])).all()
    assert episodes.states[1, 3].tolist() == [1, 4, 7]
    envs.close()
    assert all(single.env.closed for single in envs.singles)


def test_a_limit_cuts_an_episode():
    envs = make_team("counting", 1, limit=2)
    played = play(envs, team_for(envs), [3])
    assert played.lengths.tolist() == [2]
    assert not played.episodes.terminated.any()


def test_an_end_at_the_limit_of_tuples_is_a_truncation():
    envs = make_team("Tupled-v0", 2)
    assert envs.limit == 4
    played = play(envs, team_for(envs), [2, 9], reward="shared")
    assert played.lengths.tolist() == [2, 4]
    assert played.episodes.terminated.nonzero().tolist() == [[1, 0]]
    assert played.returns.tolist() == [1.0, 2.0]
    assert envs.spaces["state_size"] == 4, "the joined observations"


def test_a_return_depends_on_its_seed_alone():
    envs = make_team("counting", 10)
    team = team_for(envs)
    together, _, of_agents = evaluate(envs, team, range(7, 23))
    alone = [evaluate(envs, team, [seed])[0].item() for seed in range(7, 23)]
    assert together.tolist() == alone
    assert of_agents.shape == (16, 2)


def test_rewards_of_a_team():
    envs = make_team("counting", 1)
    team = team_for(envs)
    total, mean = (play(envs, team, [2], reward=reward).returns for reward in ("sum", "mean"))
    assert total == 2 * mean != 0
    with pytest.raises(UserError, match=r"do not share their reward, got .*: set data.team_reward to sum or mean"):
        play(envs, team, [2], reward="shared")


def test_agents_that_see_and_do_different_things_are_padded():
    envs = make_team("unlike", 1)
    assert envs.spaces == {"observation_sizes": (2, 4), "num_actions": (3, 2), "state_size": 3}
    played = play(envs, team_for(envs, epsilon=1.0), [2], explore=True)
    assert played.episodes.observations[1, 0].tolist() == [[1, 0, 0, 0], [1, 1, 5, 5]]
    assert played.episodes.available[0, 0].tolist() == [[True, True, True], [True, True, False]]
    assert played.episodes.actions[..., 1].max() < 2


def test_masks_of_actions():
    envs = make_team("masked", 1)
    played = play(envs, team_for(envs, epsilon=1.0), [2], explore=True)
    assert played.episodes.actions[:, 0].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_matrix_games():
    envs = make_team("matrix/climbing", 9)
    assert envs.limit == 1
    frame = envs.reset(range(9))
    assert frame.observations.shape == (9, 2, 1)
    actions = np.array([(i, j) for i in range(3) for j in range(3)])
    _, rewards, terminated, truncated = envs.step(actions, np.ones(9, bool))
    assert rewards[:, 0].reshape(3, 3).tolist() == PAYOFFS["climbing"]
    assert (rewards[:, 0] == rewards[:, 1]).all()
    assert terminated.all()
    assert not truncated.any()


def test_the_two_step_game():
    envs = make_team("matrix/two-step", 4)
    envs.reset(range(4))
    running = np.ones(4, bool)
    first = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    frame, rewards, terminated, _ = envs.step(first, running)
    assert not rewards.any()
    assert not terminated.any()
    assert frame.states.argmax(1).tolist() == [1, 1, 2, 2]
    _, rewards, terminated, _ = envs.step(np.array([[1, 1], [0, 1], [0, 1], [1, 1]]), running)
    assert rewards[:, 0].tolist() == [7, 7, 1, 8]
    assert terminated.all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaving", "leave at different times"),
        ("continuous", "needs Discrete ones from 0"),
        ("matrix/chess", "there are matrix/qtran"),
        ("mpe2/simple_spred_v3", "did you mean mpe2/simple_spread_v3"),
        ("CartPole-v1", "its spaces must be tuples"),
    ],
)
def test_what_is_refused(name, message):
    def begin():
        envs = make_team(name, 1)
        play(envs, team_for(envs), [3])

    with pytest.raises(UserError, match=message):
        begin()


def test_bad_options():
    with pytest.raises(UserError, match="max_episode_steps must be at least 1"):
        make_team("counting", limit=0)
    with pytest.raises(UserError, match="must be a number"):
        make_team("counting", arguments={"leave": "yes"})
    with pytest.raises(UserError, match="takes no arguments"):
        make_team("matrix/qtran", arguments={"k": 1})
    with pytest.raises(UserError, match="no video"):
        make_team("matrix/qtran", render=True)
    with pytest.raises(UserError, match="unexpected keyword argument 'depth'"):
        make_team("counting", arguments={"depth": 1})


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpe2", None)
    with pytest.raises(UserError, match=r"pip install 'lightning-zoo\[teams\]'"):
        make_team("mpe2/simple_spread_v3")


def test_spread_is_that_of_mpe2():
    pytest.importorskip("mpe2")
    from mpe2 import simple_spread_v3

    envs = make_team("mpe2/simple_spread_v3", 2, {"N": 2})
    team = team_for(envs)
    played = play(envs, team, [4, 5])
    assert played.lengths.tolist() == [25, 25]
    assert not played.episodes.terminated.any()
    env = simple_spread_v3.parallel_env(N=2)
    observations, _ = env.reset(seed=5)
    total = 0.0
    for t in range(25):
        seen = np.stack([*observations.values()])
        np.testing.assert_array_equal(played.episodes.observations[t, 1], seen)
        np.testing.assert_array_equal(played.episodes.states[t, 1], env.state())
        chosen = played.episodes.actions[t, 1].tolist()
        observations, rewards, *_ = env.step(dict(zip(env.possible_agents, chosen, strict=True)))
        total += sum(rewards.values())
    np.testing.assert_array_equal(played.episodes.observations[25, 1], np.stack([*observations.values()]))
    assert total == pytest.approx(played.returns[1].item(), rel=1e-5)  # float32 rewards


def test_the_native_spread_is_that_of_mpe2():
    pytest.importorskip("mpe2")
    copies, native = make_team("mpe2/simple_spread_v3", 6), make_native("mpe2/simple_spread_v3", 6)
    assert native.spaces == copies.spaces
    assert native.limit == copies.limit
    generator, seeds = np.random.default_rng(0), [3, 1, 4, 159, 26, None]
    running, touched = np.array([seed is not None for seed in seeds]), 0
    frames = [envs.reset(seeds) for envs in (copies, native)]
    for t in range(25):
        for part, ours in zip(frames[0], frames[1], strict=True):
            # float64 physics, shown in float32; contact forces multiply rounding a thousandfold
            np.testing.assert_allclose(ours[:5], part[:5], rtol=0, atol=1e-5, err_msg=f"step {t}")
        actions = generator.integers(0, 5, (6, 3))
        if t > 4:  # towards the first agent, so that they touch
            toward = copies._frame.observations[:, :, 10:12].copy()
            toward[:, 0] = -toward[:, 0]
            axis = np.abs(toward).argmax(-1)
            sign = np.take_along_axis(toward, axis[..., None], -1)[..., 0] > 0
            actions = 1 + 2 * axis + sign
        steps = [envs.step(actions, running) for envs in (copies, native)]
        frames = [step[0] for step in steps]
        np.testing.assert_allclose(steps[1][1], steps[0][1], rtol=0, atol=1e-5)
        touched += (steps[0][1][:5] != steps[0][1][:5, :1]).sum()
        for ours, theirs in zip(steps[1][2:], steps[0][2:], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert steps[0][3].tolist() == [True] * 5 + [False]
    assert touched > 0


def test_the_native_speaker_and_listener_are_those_of_mpe2():
    pytest.importorskip("mpe2")
    name = "mpe2/simple_speaker_listener_v4"
    copies, native = make_team(name, 6), make_native(name, 6)
    assert native.spaces == copies.spaces
    assert native.limit == copies.limit
    generator, seeds = np.random.default_rng(0), [3, 1, 4, 159, 26, None]
    running = np.array([seed is not None for seed in seeds])
    frames = [envs.reset(seeds) for envs in (copies, native)]
    for _ in range(25):
        for part, ours in zip(frames[0], frames[1], strict=True):
            np.testing.assert_allclose(ours[:5], part[:5], rtol=0, atol=1e-6)  # float64 physics, shown in float32
        actions = generator.integers(0, (3, 5), (6, 2))
        steps = [envs.step(actions, running) for envs in (copies, native)]
        frames = [step[0] for step in steps]
        np.testing.assert_allclose(steps[1][1], steps[0][1], rtol=1e-6)
        for ours, theirs in zip(steps[1][2:], steps[0][2:], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert steps[0][3].tolist() == [True] * 5 + [False]


def test_what_has_no_native_version():
    for options in ({"name": "counting"}, {"name": "mpe2/simple_spread_v3", "arguments": {"N": 4}}):
        with pytest.raises(UserError, match="has no native version"):
            make_native(count=2, **options)


def test_foraging():
    pytest.importorskip("lbforaging")
    envs = make_team("Foraging-8x8-2p-2f-coop-v3", 2)
    assert envs.spaces == {"observation_sizes": (12, 12), "num_actions": (6, 6), "state_size": 24}
    assert envs.limit == 50
    played = play(envs, team_for(envs, epsilon=1.0), [0, 1], explore=True)
    assert played.lengths.tolist() == [50, 50]
    assert not played.episodes.terminated.any(), "cut by the limit"
    again = play(envs, team_for(envs), [0, 1])
    assert torch.equal(again.episodes.observations[0], played.episodes.observations[0])
    envs.close()
