"""IMPALA in the Trainer: rollouts that are exactly one update old, the same in every run; what it learns; refusals."""

import re
import threading

import pytest
import torch

from datamodules import Experience
from datamodules.experience.collector import Collector
from lightning_modules import IMPALA, PPO
from tests.environments import ACTIONS, Probe
from tests.lightning_modules.rl.test_ppo import ResetAt, fit
from zoo.errors import UserError


def made(data, seed=0, **options):
    torch.manual_seed(seed)
    return IMPALA(data.spaces, data.total_env_steps, **({"hidden": (8,), "compile": False} | options))


def cartpole(**changes):
    options = {"num_envs": 2, "rollout_steps": 8, "seed": 3, "ahead": 1, "rollouts_per_batch": 1}
    return Experience("CartPole-v1", 400, **(options | changes))


def test_every_rollout_is_one_update_old(monkeypatch):
    """Its log-probabilities are those of the weights before the last update, and it was played in another thread."""
    seen, threads, collect = [], set(), Collector.collect
    monkeypatch.setattr(Collector, "collect", lambda *a: (threads.add(threading.current_thread()), collect(*a))[1])

    class Watched(IMPALA):
        def learn(self, rollout):
            seen.append((rollout, self.learner.vector.detach().clone()))
            return super().learn(rollout)

    data = cartpole()
    torch.manual_seed(0)
    model = Watched(data.spaces, data.total_env_steps, hidden=(8,), compile=False, learning_rate=1e-2)
    fit(model, data)
    assert threading.main_thread() not in threads
    assert len(seen) > 20

    def log_probs(rollout, vector):
        model.learner.vector.data.copy_(vector)
        with torch.no_grad():
            return model.model(rollout.observations[:-1], rollout.actions).log_prob

    for k, (rollout, vector) in enumerate(seen):
        before = seen[max(k - 1, 0)][1]
        torch.testing.assert_close(rollout.log_probs, log_probs(rollout, before), rtol=1e-6, atol=1e-6)
        if k:
            assert not torch.allclose(rollout.log_probs, log_probs(rollout, vector), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_a_run_is_the_same_again(vectorization):
    runs = []
    for _ in range(2):
        data = cartpole(vectorization=vectorization)
        model = made(data, normalize=True)
        fit(model, data)
        runs.append(model.state_dict())
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(tmp_path):
    path, options = tmp_path / "middle.ckpt", {"normalize": True, "anneal": True}
    first, saved = made(cartpole(), **options), ResetAt(path, 150)
    fit(first, cartpole(), saved)
    resumed = made(cartpole(), seed=9, **options)

    class Restore(ResetAt):  # the command line's RunRecord restores the random state before the first rollout
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

        def on_train_batch_end(self, *_):
            pass

    fit(resumed, cartpole(), Restore(path, 0), ckpt_path=path)
    assert resumed.env_steps == first.env_steps
    for name, value in first.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize(
    ("kind", "actions"), [("two-step", "discrete"), ("one-step", "multi-discrete"), ("one-step", "box")]
)
def test_probes_are_solved(ahead, kind, actions):
    data = Experience(
        "zoo-probe-v0", 4000, num_envs=8, rollout_steps=4, seed=1, ahead=ahead,
        environment_arguments={"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)},
    )  # fmt: skip
    options = {"hidden": (16,), "learning_rate": 2e-2, "gamma": 0.5, "anneal": True, "log_std": -1.0}
    model = made(data, optimizer="adam", **options)
    fit(model, data)
    data.trainer = model.trainer
    assert next(iter(data.test_dataloader())).returns.mean() > 0.8


def test_an_error_of_the_environment_ends_the_run():
    data = Experience("zoo-broken-v0", 400, num_envs=2, rollout_steps=2, seed=3, ahead=1)
    with pytest.raises(UserError, match=r"returned a reward that is not finite at its step 3"):
        fit(made(data), data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho_bar": 0.5}, "model.rho_bar must be at least model.c_bar 1.0, got 0.5"),
        ({"c_bar": 0.0}, "model.c_bar must be positive, got 0.0"),
        ({"optimizer": "sgd"}, "model.optimizer must be one of adam, rmsprop, rmsprop-inside, got 'sgd'"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        made(cartpole(), **options)


def test_who_learns_from_its_own_rollouts_refuses_older_ones():
    with pytest.raises(UserError, match=r"data\.ahead must be 0 or 1, got 2"):
        cartpole(ahead=2)
    with pytest.raises(UserError, match=r"set data\.whole_episodes false"):
        cartpole(whole_episodes=True)
    data = cartpole()
    with pytest.raises(UserError, match=r"PPO learns from its own: set data\.ahead 0, or use IMPALA"):
        fit(PPO(data.spaces, 400, hidden=(8,), minibatch_size=16, compile=False), data)
