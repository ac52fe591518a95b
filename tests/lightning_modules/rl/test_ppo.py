"""PPO in the Trainer: the order of things, what it can learn, how it goes on, and two processes."""

import re

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import Experience
from datamodules.experience.collector import Collector
from lightning_modules import PPO
from tests.environments import ACTIONS, Probe
from zoo.errors import UserError

QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, "barebones": False,
}  # fmt: skip
TINY = {"hidden": (8,), "minibatch_size": 16, "epochs": 2, "compile": False}


def counting(**changes):
    options = {"environment": "zoo-counting-v0", "total_env_steps": 60, "num_envs": 2, "rollout_steps": 8, "seed": 3}
    return Experience(**(options | {"validation_episodes": 2, "rollouts_per_batch": 1} | changes))


def ppo(data, **options):
    torch.manual_seed(options.pop("seed", 0))
    return PPO(data.spaces, data.total_env_steps, **(TINY | options))


def fit(model, data, *callbacks, ckpt_path=None, **options):
    trainer = L.Trainer(**(QUIET | {"limit_val_batches": 0} | options), callbacks=[*callbacks])
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("rollouts_per_batch", [1, 3])
def test_collect_train_collect_train(monkeypatch, rollouts_per_batch):
    done = []
    collect, learn = Collector.collect, PPO.learn
    monkeypatch.setattr(Collector, "collect", lambda *a: (done.append("collect"), collect(*a))[1])
    monkeypatch.setattr(PPO, "learn", lambda *a: (done.append("train"), learn(*a))[1])
    data = counting(rollouts_per_batch=rollouts_per_batch)
    fit(ppo(data), data)
    assert done[:4] == ["collect", "train"] * 2
    assert done == ["collect", "train"] * (len(done) // 2)


def seen_by(monkeypatch):
    """Transitions of each rollout that is collected from here on."""
    seen, collect = [], Collector.collect

    def counted(*arguments):
        rollout = collect(*arguments)
        seen.append(int(rollout.valid.sum()))
        return rollout

    monkeypatch.setattr(Collector, "collect", counted)
    return seen


def test_env_steps_are_exact_and_end_the_run(monkeypatch):
    seen = seen_by(monkeypatch)

    class Count(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            assert int(module.env_steps) == sum(seen)

    data = counting(rollouts_per_batch=1)
    model = ppo(data)
    fit(model, data, Count())
    assert sum(seen[:-1]) < data.total_env_steps <= sum(seen)
    assert sum(seen) < 16 * len(seen), "rows that reset are not counted"


def test_short_rollouts_share_a_training_step_and_learn_the_same(monkeypatch):
    """Weights are those of one rollout a step, to the bit; the run stops within a step, and logs once a step."""
    runs = []
    for rollouts in (1, 4, None):
        seen, steps = seen_by(monkeypatch), []

        class Count(Callback):
            def on_train_batch_end(self, trainer, module, *_, steps=steps):
                steps.append(int(module.env_steps))

        data = counting(rollouts_per_batch=rollouts)
        model = ppo(data, normalize=True)
        fit(model, data, Count())
        runs.append(model.state_dict())
        monkeypatch.undo()
        assert len(steps) == -(-len(seen) // data.rollouts_per_batch)
        assert sum(seen[:-1]) < data.total_env_steps <= sum(seen)
    assert data.rollouts_per_batch == 63, "1,000 transitions"
    assert Experience("CartPole-v1", num_envs=8, rollout_steps=32).rollouts_per_batch == 1
    for run in runs[1:]:
        assert all(torch.equal(value, run[name]) for name, value in runs[0].items())


def solved(kind, actions, **options):
    """Trains on a probe; returns the module."""
    data = Experience(
        "zoo-probe-v0", 2400, num_envs=4, rollout_steps=32, seed=1,
        environment_arguments={"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)},
    )  # fmt: skip
    base = {"hidden": (16,), "minibatch_size": 128, "epochs": 6, "learning_rate": 2e-2, "gamma": 0.5, "log_std": -1.0}
    model = ppo(data, **(base | {"gae_lambda": 0.9, "anneal": True} | options))
    fit(model, data)
    return model, data


def probes():
    """Every kind with one sort of actions, and two kinds with the others; the rest runs with the slow tests."""
    for kind in Probe.KINDS:
        for actions in ACTIONS:
            quick = actions == "discrete" or kind in ("one-step", "action-dependent")
            yield pytest.param(kind, actions, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("kind", "actions"), [*probes()])
def test_probes_are_solved(kind, actions):
    model, data = solved(kind, actions)
    data.trainer = model.trainer
    with torch.no_grad():
        returns = next(iter(data.test_dataloader())).returns.mean()
        first = float(model.model.values(torch.tensor([1.0, 0.0 if kind == "time-limit" else -1.0])))
    best = 4.0 if kind == "time-limit" else 1.0
    assert returns > 0.93 * best
    # the value of the first observation under gamma 1/2; noise in the actions lowers that of a Box a little
    expected = {"time-limit": 2.0, "discounting": 0.5, "two-step": 0.5, "action-dependent": 0.5}.get(kind, 1.0)
    assert first == pytest.approx(expected, abs=0.15)


def test_state_dependent_exploration_solves_a_probe():
    model, data = solved("one-step", "box", exploration="state-dependent", hold=2)
    data.trainer = model.trainer
    assert next(iter(data.test_dataloader())).returns.mean() > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"shared": True}, {"value_clip": 0.2, "anneal_clip": True}, {"normalize": True, "recompute_advantages": True},
        {"entropy_weight": 0.01, "normalize_advantages": False}, {"target_kl": 0.05}, {"activation": "relu"},
        {"kl_penalty": "adaptive", "kl_bound": 0.05}, {"kl_penalty": "dual", "kl_bound": 0.05},
    ],
)  # fmt: skip
def test_every_option_still_solves_a_probe(options):
    model, data = solved("one-step", "discrete", **options)
    data.trainer = model.trainer
    assert next(iter(data.test_dataloader())).returns.mean() > 0.95


def test_the_kl_stop_stops():
    updates = []

    class Count(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            updates.append(int(trainer.optimizers[0].state[module.learner.vector]["step"]))

    data = counting()
    model = ppo(data, target_kl=1e-4, learning_rate=0.1, epochs=5)
    fit(model, data, Count())
    assert max(b - a for a, b in zip([0, *updates], updates, strict=False)) < 5


@pytest.mark.parametrize("kind", ["adaptive", "dual"])
def test_the_penalty_keeps_updates_near_its_bound(kind):
    """From a beta a hundred times too small, in a run that would move by much more."""
    moved = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            moved.append(float(trainer.callback_metrics["train/update_kl"]))

    data = Experience("CartPole-v1", 6000, num_envs=4, rollout_steps=32, seed=1, rollouts_per_batch=1)
    model = ppo(data, kl_penalty=kind, kl_weight=0.01, kl_bound=0.002, dual_rate=50.0, learning_rate=5e-3)
    fit(model, data, Note())
    assert max(moved[:15]) > 0.01
    assert sorted(moved[-10:])[5] < 0.006
    assert model.state_dict()["penalty"] > 0.01, "and it is saved"


def test_annealing_reaches_nearly_zero():
    rates = []

    class Rate(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    data = counting(total_env_steps=300)
    fit(ppo(data, anneal=True, learning_rate=1.0e-2), data, Rate())
    assert rates[0] == 1e-2
    assert rates == sorted(rates, reverse=True)
    assert 0 <= rates[-1] < 1e-3


def test_compiled_and_eager_agree():
    if not __import__("shutil").which("g++"):
        pytest.skip("no compiler")
    runs = []
    for compiled in (False, True):
        data = counting(total_env_steps=30)
        model = ppo(data, compile=compiled)
        fit(model, data)
        runs.append(model.state_dict())
    # kernels round differently
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-3, atol=1e-5)


class ResetAt(Callback):
    """Saves the run, and begins new episodes, when a count of environment steps is passed."""

    def __init__(self, path, env_steps):
        self.path, self.env_steps, self.done = path, env_steps, False

    def on_train_batch_end(self, trainer, module, *_):
        if not self.done and module.env_steps >= self.env_steps:
            self.done = True
            self.random = torch.get_rng_state()
            trainer.save_checkpoint(self.path, weights_only=False)
            trainer.datamodule.loader.reset()
            module.begin_episodes()


class Randomness(Callback):
    def __init__(self, state):
        self.state = state

    def on_train_batch_start(self, trainer, module, *_):
        if self.state is not None:
            torch.set_rng_state(self.state)
            self.state = None


def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(tmp_path):
    path, options = tmp_path / "middle.ckpt", {"normalize": True, "anneal": True}
    data = Experience("Pendulum-v1", 300, num_envs=2, rollout_steps=16, seed=3, rollouts_per_batch=1)
    whole = ppo(data, **options)
    saved = ResetAt(path, 100)
    fit(whole, data, saved)
    again = Experience("Pendulum-v1", 300, num_envs=2, rollout_steps=16, seed=3, rollouts_per_batch=1)
    resumed = ppo(again, seed=9, **options)

    class Restore(Callback):  # the command line's RunRecord restores the random state before the first rollout
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

    fit(resumed, again, Restore(), ckpt_path=path)
    assert resumed.env_steps == whole.env_steps
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_finished_run_goes_on_to_more_env_steps(tmp_path):
    class Save(Callback):
        def on_train_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)

    data = counting()
    fit(ppo(data), data, Save())
    again = counting(total_env_steps=120)
    model = ppo(again)
    fit(model, again, ckpt_path=tmp_path / "last.ckpt")
    assert 120 <= model.env_steps < 140


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minibatch_size": 0}, "model.minibatch_size must be positive, got 0"),
        ({"gamma": 1.5}, "model.gamma must be between 0 and 1, got 1.5"),
        ({"target_kl": -1.0}, "model.target_kl must be positive or null"),
        ({"learning_rate": float("nan")}, "model.learning_rate"),
        ({"entropy_weight": -1.0}, "model.entropy_weight"),
        ({"kl_penalty": "fixed"}, "model.kl_penalty must be one of none, adaptive, dual, got 'fixed'"),
        ({"kl_penalty": "dual", "kl_bound": 0.0}, "model.kl_bound must be positive, got 0.0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        ppo(counting(), **options)


def test_minibatches_that_do_not_divide_a_rollout_are_refused():
    data = counting()
    with pytest.raises(UserError, match=r"the 16 rows .* model.minibatch_size 5"):
        fit(ppo(data, minibatch_size=5), data)


def test_16_bit_floats_are_refused():
    data = counting()
    model = ppo(data)
    model._trainer = L.Trainer(**QUIET)
    model.trainer.strategy.precision_plugin.precision = "16-mixed"  # Lightning has it on a GPU alone
    with pytest.raises(UserError, match="precision"):
        model.on_fit_start()
