import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import tests.environments
from datamodules import Experience
from datamodules.experience.collector import Collector
from datamodules.experience.environments import make, spaces_of
from datamodules.experience.vector import make_vector
from zoo.errors import UserError
from zoo.rl.policies import ActorCritic

VECTORIZATIONS = ("sync", "async", "native")
COUNT, STEPS = 3, 7


def collector(vectorization, name="zoo-counting-v0", steps=STEPS, count=COUNT, arguments=None):
    made = Collector(make_vector(name, count, vectorization, arguments), steps)
    made.reset(seed=5)
    return made


def policy(observation_size=2):
    torch.manual_seed(0)
    return ActorCritic((observation_size,), (2,), hidden=(4,))


@pytest.mark.parametrize("vectorization", VECTORIZATIONS)
def test_every_row_is_what_the_counting_environment_did(vectorization):
    made, rollouts = collector(vectorization), []
    try:
        rollouts = [made.collect(policy()) for _ in range(6)]
    finally:
        made.envs.close()
    before = torch.zeros(COUNT, dtype=torch.bool)  # whether the row before ended an episode
    counted, ended = 0, []
    last = rollouts[0].observations[0]
    for rollout in rollouts:
        assert torch.equal(rollout.observations[0], last), "episodes go on from one rollout to the next"
        last = rollout.observations[-1]
        now, following = rollout.observations[:-1], rollout.observations[1:]
        over = rollout.terminated | rollout.truncated
        for t in range(STEPS):
            assert torch.equal(rollout.valid[t], ~before), "only the row that resets is no transition"
            for i in range(COUNT):
                if before[i]:
                    assert following[t, i].tolist() == [0, now[t, i, 1] + 1], "a reset"
                    assert rollout.rewards[t, i] == 0
                    assert not over[t, i]
                else:
                    assert following[t, i].tolist() == [now[t, i, 0] + 1, now[t, i, 1]], "the true next observation"
                    assert rollout.rewards[t, i] == now[t, i, 0] + 1
                    length = 2 + now[t, i, 1] % 3
                    assert over[t, i] == (following[t, i, 0] == length)
                    assert rollout.terminated[t, i] == (over[t, i] and now[t, i, 1] % 2 == 0)
                    assert rollout.truncated[t, i] == (over[t, i] and now[t, i, 1] % 2 == 1)
                    if over[t, i]:
                        ended.append(int(length))
            before = over[t]
        counted += int(rollout.valid.sum())
    lengths = torch.cat([rollout.episode_lengths for rollout in rollouts]).tolist()
    returns = torch.cat([rollout.episode_returns for rollout in rollouts]).tolist()
    assert lengths == ended
    assert returns == [n * (n + 1) / 2 for n in lengths]
    unfinished = int(last[:, 0][~before].sum())
    assert counted == sum(lengths) + unfinished, "transitions are counted to the last"


@pytest.mark.parametrize("vectorization", [*VECTORIZATIONS, "envpool"])
def test_carts_are_reset_by_rows_that_are_no_transitions(vectorization):
    if vectorization == "envpool":
        pytest.importorskip("envpool")
    made = collector(vectorization, "CartPole-v1", steps=120, count=4)
    try:
        rollout = made.collect(policy(4))
    finally:
        made.envs.close()
    over = (rollout.terminated | rollout.truncated)[:-1]
    assert over.sum() > 8
    assert torch.equal(rollout.valid[1:], ~over)
    # the true last observation is out of bounds, what follows a reset is near 0; a step moves by velocity x 0.02
    ends = rollout.observations[1:-1][over]
    assert ((ends[:, 0].abs() > 2.4) | (ends[:, 2].abs() > 0.2095)).all()
    assert (rollout.observations[2:][over].abs() <= 0.05).all()
    now, following = rollout.observations[:-1][rollout.valid], rollout.observations[1:][rollout.valid]
    torch.testing.assert_close(following[:, 0], now[:, 0] + 0.02 * now[:, 1], rtol=1e-4, atol=1e-5)
    assert (rollout.rewards[rollout.valid] == 1).all()


def test_the_actions_are_those_that_the_environment_got():
    seen = []

    class Watching(tests.environments.Counting):
        action_space = Box(np.float32([-3.0, 0.0]), np.float32([3.0, 1.0]))

        def step(self, action):
            seen.append(action.copy())
            return super().step(0)

    gym.register("zoo-watching-v0", Watching)
    made = collector("sync", "zoo-watching-v0", count=1)
    torch.manual_seed(3)
    actor = ActorCritic((2,), action_low=(-3.0, 0.0), action_high=(3.0, 1.0), hidden=(4,), log_std=1.0)
    rollout = made.collect(actor)
    assert rollout.actions.abs().max() > 1, "what was drawn is kept, not what was clipped"
    expected = actor.to_environment(rollout.actions[:, 0])[rollout.valid[:, 0]]
    np.testing.assert_allclose(np.stack(seen), expected.numpy())
    assert not rollout.actions.is_inference()


@pytest.mark.parametrize(("where", "what"), [(1, "reward"), (0, "observation")])
def test_numbers_that_are_not_finite_are_told_with_step_and_environment(where, what):
    made = collector("sync", "zoo-broken-v0", steps=3, count=2, arguments={"where": where})
    made.collect(policy())
    with pytest.raises(
        UserError, match=f"environment 0 returned a {what} that is not finite at its step 3 of this run"
    ):
        made.collect(policy())


def test_spaces():
    box = Box(-np.inf, np.inf, (3, 2))
    plain = {"observation_shape": (3, 2), "num_actions": (), "action_low": (), "action_high": ()}
    assert spaces_of("x", box, Discrete(4)) == plain | {"num_actions": (4,)}
    assert spaces_of("x", box, MultiDiscrete([2, 5])) == plain | {"num_actions": (2, 5)}
    bounds = {"action_low": (-2.0, -2.0), "action_high": (1.0, 3.0)}
    assert spaces_of("x", box, Box(-2.0, np.float32([1.0, 3.0]), (2,))) == plain | bounds
    assert spaces_of("x", Discrete(3), Discrete(2)) == plain | {"observation_shape": (3,), "num_actions": (2,)}
    for observations, actions in (
        (Dict(a=box), Discrete(2)), (box, Discrete(2, start=1)), (box, box),
        (box, Box(-np.inf, np.inf, (2,))), (box, MultiDiscrete([[2, 2], [2, 2]])),
    ):  # fmt: skip
        with pytest.raises(UserError, match="x has"):
            spaces_of("x", observations, actions)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"environment": "CartPol-v1"}, "did you mean CartPole-v1"),
        ({"environment": "Xyzzy"}, "--env-module"),
        ({"environment": "os:CartPole-v1"}, "must not contain ':'"),
        ({"num_envs": 0}, "data.num_envs must be at least 1, got 0"),
        ({"rollout_steps": 0}, "data.rollout_steps"),
        ({"total_env_steps": -1}, "data.total_env_steps"),
        ({"vectorization": "quantum"}, "sync, async, native, envpool, ray"),
        ({"environment_arguments": {"xml_file": "/etc/passwd"}}, "must be a number"),
        ({"environment_arguments": {"nonsense": 1}}, "nonsense"),
        ({"environment": "Blackjack-v1"}, "only Box and Discrete are supported"),
        ({"validation_episodes": -1}, "data.validation_episodes must be at least 0"),
        ({"rollouts_per_batch": 0}, "data.rollouts_per_batch must be at least 1"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=words):
        Experience(**({"environment": "CartPole-v1"} | options))


def test_what_is_not_there():
    with pytest.raises(UserError, match="no native vector environment"):
        make_vector("Acrobot-v1", 2, "native", None)


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("mujoco", "Hopper-v5", "mujoco"), ("Box2D", "LunarLander-v3", "box2d")]
)
def test_a_missing_package_is_answered_with_its_pip_line(package, name, extra, monkeypatch):
    for module in [
        key for key in sys.modules if key.split(".")[0] == package or ".envs.mujoco" in key or "box2d" in key
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'lightning-zoo\[{extra}\]'"):
        make(name)


def test_physics_is_made_in_silence(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    make("HalfCheetah-v5").close()
    assert capfd.readouterr() == ("", "")
    assert not [*tmp_path.iterdir()], "MuJoCo would leave a log here"


def test_a_missing_envpool_is_answered_with_its_pip_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'lightning-zoo\[envpool\]'"):
        make_vector("CartPole-v1", 2, "envpool", None)
