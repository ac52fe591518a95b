"""TRPO and the natural policy gradient in the Trainer: what they learn, steps that are undone, resuming, refusals."""

import re

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import Experience
from lightning_modules import TRPO
from tests.environments import ACTIONS, Probe
from tests.lightning_modules.rl.test_ppo import ResetAt, counting, fit
from zoo.errors import UserError

NATURAL = {"line_search": False}


def made(data, seed=0, **options):
    torch.manual_seed(seed)
    base = {"hidden": (8,), "minibatch_size": 16, "epochs": 2, "compile": False}
    return TRPO(data.spaces, data.total_env_steps, **(base | options))


def solved(kind, actions="discrete", **options):
    data = Experience(
        "zoo-probe-v0", 4000, num_envs=4, rollout_steps=32, seed=1,
        environment_arguments={"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)},
    )  # fmt: skip
    base = {"hidden": (16,), "minibatch_size": 64, "epochs": 5, "gamma": 0.5, "learning_rate": 1e-2, "log_std": -1.0}
    model = made(data, **(base | {"delta": 0.05, "damping": 0.01} | options))
    fit(model, data)
    data.trainer = model.trainer
    return next(iter(data.test_dataloader())).returns.mean()


@pytest.mark.parametrize(
    "options",
    [
        {}, NATURAL, {**NATURAL, "step": 0.3}, {"fisher": "empirical"}, {"normalize": True}, {"anneal": True},
        {**NATURAL, "step": 0.3, "fisher": "empirical"},
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_solves_a_probe(options):
    assert solved("two-step", **options) > 0.9


@pytest.mark.parametrize("actions", ["multi-discrete", "box"])
def test_other_actions(actions):
    assert solved("one-step", actions) > 0.8


def test_state_dependent_exploration():
    assert solved("one-step", "box", exploration="state-dependent", hold=2) > 0.8


def test_the_critic_moves_no_action_and_the_step_no_value():
    """The actor's part of the weights changes by the step alone, the critic's by its passes alone."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append((module.actor.vector.detach().clone(), module.learner.vector.detach().clone()))

    data = counting()
    model = made(data, delta=1e-30)  # no step is that short: each is undone
    before = model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    fit(model, data, Watch())
    now = model.state_dict()
    assert all(torch.equal(seen[0][0], actor) for actor, _ in seen)
    for name, value in before.items():
        if "actor" in name:
            assert torch.equal(value, now[name]), name
        if "critic" in name and "weight" in name:
            assert not torch.equal(value, now[name]), name


def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(tmp_path):
    path, options = tmp_path / "middle.ckpt", {"normalize": True, "anneal": True}

    def data():
        return Experience("Pendulum-v1", 300, num_envs=2, rollout_steps=16, seed=3, rollouts_per_batch=1)

    whole, saved = made(data(), **options), ResetAt(path, 100)
    fit(whole, data(), saved)
    resumed = made(data(), seed=9, **options)

    class Restore(Callback):  # the command line's RunRecord restores the random state before the first rollout
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

    fit(resumed, data(), Restore(), ckpt_path=path)
    assert resumed.env_steps == whole.env_steps
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delta": 0.0}, "model.delta must be positive, got 0.0"),
        ({"step": -1.0, **NATURAL}, "model.step must be positive or null, got -1.0"),
        ({"step": 0.1}, "set model.line_search false"),
        ({"fisher": "k3"}, "model.fisher must be one of exact, empirical, got 'k3'"),
        ({"damping": -0.1}, "model.damping must be at least 0 and finite, got -0.1"),
        ({"iterations": 0}, "model.iterations must be positive, got 0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        made(counting(), **options)


def test_minibatches_that_do_not_divide_a_rollout_are_refused():
    data = counting()
    with pytest.raises(UserError, match=r"the 16 rows .* model.minibatch_size 5"):
        fit(made(data, minibatch_size=5), data)
