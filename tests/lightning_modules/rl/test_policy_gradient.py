"""REINFORCE and A2C in the Trainer: whole episodes, what they learn, resuming, and what is refused."""

import re

import gymnasium as gym
import pytest
import torch

from datamodules import Experience
from lightning_modules import PolicyGradient
from tests.environments import ACTIONS, Counting, Probe
from tests.lightning_modules.rl.test_ppo import ResetAt, fit
from zoo.errors import UserError

WHOLE = {"returns": "monte-carlo", "baseline": "leave-one-out"}
if "zoo-endless-v0" not in gym.registry:
    gym.register("zoo-endless-v0", Counting)  # without max_episode_steps


def counting(**changes):
    options = {"environment": "zoo-counting-v0", "total_env_steps": 60, "num_envs": 2, "rollout_steps": 4, "seed": 3}
    return Experience(**(options | changes))


def made(data, seed=0, **options):
    torch.manual_seed(seed)
    return PolicyGradient(data.spaces, data.total_env_steps, **({"hidden": (8,), "compile": False} | options))


def watched(monkeypatch):
    """The rollouts that are learned from, from here on."""
    seen, learn = [], PolicyGradient.learn
    monkeypatch.setattr(PolicyGradient, "learn", lambda self, rollout: (seen.append(rollout), learn(self, rollout))[1])
    return seen


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
@pytest.mark.parametrize("rollout_steps", [1, 3, 50])
def test_whole_episodes_are_whole(monkeypatch, vectorization, rollout_steps):
    if vectorization == "async" and rollout_steps != 3:
        pytest.skip("once is enough for processes")
    seen = watched(monkeypatch)
    data = counting(whole_episodes=True, num_envs=3, rollout_steps=rollout_steps, vectorization=vectorization)
    model = made(data, **WHOLE)
    fit(model, data)
    assert len(seen) > 3
    for rollout in seen:
        ends = rollout.terminated | rollout.truncated
        first = rollout.observations[0]
        assert (first[:, 0] == 0).all(), "a rollout begins with new episodes"
        assert (ends.sum(0) == 1).all(), "and has one end of each"
        lengths = rollout.valid.sum(0)
        assert len(rollout.valid) == lengths.max()
        assert torch.equal(lengths, rollout.episode_lengths)
        for column, length in enumerate(lengths.tolist()):
            assert ends[length - 1, column]
            assert rollout.rewards[:, column].tolist() == [*range(1, length + 1)] + [0] * (len(ends) - length)
            assert rollout.observations[: length + 1, column, 0].tolist() == [*range(length + 1)], "with its true end"
            assert rollout.episode_returns[column] == length * (length + 1) / 2
    counted = [int(rollout.valid.sum()) for rollout in seen]
    assert sum(counted) == model.env_steps
    assert sum(counted[:-1]) < data.total_env_steps <= sum(counted)


def test_an_environment_without_an_end_is_refused():
    data = counting(environment="zoo-endless-v0", whole_episodes=True, max_episode_steps=40,
                    environment_arguments={"first_length": 1000})  # fmt: skip
    words = "data.whole_episodes needs environments that end: an episode has not ended after 40 steps"
    with pytest.warns(UserWarning, match="max_episode_steps"), pytest.raises(UserError, match=words):
        fit(made(data, **WHOLE), data)


def test_cut_episodes_are_refused():
    with pytest.raises(UserError, match=r"set data\.vectorization to sync, async, native or envpool"):
        counting(whole_episodes=True, vectorization="ray")
    with pytest.raises(UserError, match=r"set data\.whole_episodes true"):
        fit(made(counting(), **WHOLE), counting())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"returns": "td"}, "model.returns must be one of monte-carlo, n-step, gae, got 'td'"),
        ({"optimizer": "sgd"}, "model.optimizer must be one of adam, rmsprop, rmsprop-inside, got 'sgd'"),
        ({"baseline": "mean"}, "model.baseline mean needs whole episodes: set model.returns monte-carlo"),
        ({"discount_states": True}, "model.discount_states true needs whole episodes"),
        ({"returns": "n-step", "reward_to_go": False}, "model.reward_to_go false needs whole episodes"),
        ({**WHOLE, "reward_to_go": False, "discount_states": True}, "the total return is discounted already"),
        ({**WHOLE, "compile": True}, "model.compile true needs rollouts of one length"),
        ({"n_step": 0}, "model.n_step must be positive, got 0"),
        ({"gamma": 1.5}, "model.gamma must be between 0 and 1, got 1.5"),
        ({"max_grad_norm": 0.0}, "model.max_grad_norm must be positive or null, got 0.0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        made(counting(), **options)


def test_leave_one_out_needs_two_episodes():
    data = counting(whole_episodes=True, num_envs=1)
    with pytest.raises(UserError, match=r"set data\.num_envs to 2 or more"):
        fit(made(data, **WHOLE), data)


def solved(kind, actions="discrete", whole=False, **options):
    data = Experience(
        "zoo-probe-v0", 4000, num_envs=8, rollout_steps=4, seed=1, whole_episodes=whole,
        environment_arguments={"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)},
    )  # fmt: skip
    base = {"hidden": (16,), "learning_rate": 2e-2, "gamma": 0.5, "anneal": True, "log_std": -1.0}
    model = made(data, **(base | options))
    fit(model, data)
    data.trainer = model.trainer
    return next(iter(data.test_dataloader())).returns.mean()


@pytest.mark.parametrize(
    "options",
    [
        {**WHOLE, "whole": True}, {**WHOLE, "whole": True, "reward_to_go": False}, {"returns": "gae"},
        {"returns": "monte-carlo", "baseline": "none", "discount_states": True, "whole": True},
        {"returns": "monte-carlo", "whole": True, "normalize_advantages": True},
        {"returns": "n-step", "n_step": 1}, {"returns": "n-step", "shared": True}, {"entropy_weight": 0.01},
        {"returns": "gae", "gae_lambda": 0.9, "normalize": True}, {"optimizer": "rmsprop-inside", "epsilon": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_solves_a_probe(options):
    assert solved("two-step", **({"optimizer": "adam"} | options)) > 0.9


@pytest.mark.parametrize("actions", ["multi-discrete", "box"])
@pytest.mark.parametrize("whole", [False, True])
def test_other_actions(actions, whole):
    options = WHOLE | {"whole": True} if whole else {}
    assert solved("one-step", actions, optimizer="adam", **options) > 0.8


@pytest.mark.parametrize("whole", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(tmp_path, whole):
    path, options = tmp_path / "middle.ckpt", {"normalize": True, "anneal": True} | (WHOLE if whole else {})

    def data():
        return Experience("CartPole-v1", 400, num_envs=2, rollout_steps=8, seed=3, rollouts_per_batch=1,
                          whole_episodes=whole)  # fmt: skip

    first, saved = made(data(), **options), ResetAt(path, 150)
    fit(first, data(), saved)
    resumed = made(data(), seed=9, **options)

    class Restore(ResetAt):  # the command line's RunRecord restores the random state before the first rollout
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

        def on_train_batch_end(self, *_):
            pass

    fit(resumed, data(), Restore(path, 0), ckpt_path=path)
    assert resumed.env_steps == first.env_steps
    for name, value in first.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
