"""A3C in the Trainer: one worker is A2C with a summed loss; what workers learn; resuming, deaths, refusals."""

import copy
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import AsynchronousExperience, Experience
from datamodules.experience.collector import Collector
from datamodules.experience.vector import make_vector
from datamodules.experience.workers import Order, _play
from lightning_modules import A3C, PPO, PolicyGradient
from tests.environments import ACTIONS, Probe
from tests.lightning_modules.rl.test_ppo import ResetAt, fit
from zoo.errors import UserError

SHORT = {"num_envs": 1, "rollout_steps": 6, "seed": 3, "rollouts_per_batch": 1}
LIKE = {
    "hidden": (8,), "gae_lambda": 0.9, "optimizer": "rmsprop-inside", "learning_rate": 1e-2, "epsilon": 1e-3,
    "max_grad_norm": None, "entropy_weight": 0.01,
}  # fmt: skip


def cartpole(workers=1, **changes):
    options = {"environment": "CartPole-v1", "total_env_steps": 200, "workers": workers}
    options |= {"rollout_steps": 6, "seed": 3, "rollouts_per_batch": 1}
    return AsynchronousExperience(**(options | changes))


def made(data, seed=0, **options):
    torch.manual_seed(seed)
    return A3C(data.spaces, data.total_env_steps, **(LIKE | options))


class Summed(PolicyGradient):
    """A2C whose loss is a sum over the valid rows of a rollout."""

    def configure_optimizers(self):
        optimizer, loss = super().configure_optimizers(), self.loss
        self.loss = lambda parameters, matrix: (
            (found := loss(parameters, matrix))[0] * matrix[:, -1].sum(),
            found[1],
        )
        return optimizer


class Reset(ResetAt):
    """The same, and for a method without workers: random numbers as they have them, from the seed of their episodes."""

    def on_train_start(self, trainer, module):
        if isinstance(module, Summed):
            torch.manual_seed(trainer.datamodule.loader._reset_seed())

    def on_train_batch_end(self, trainer, module, *_):
        before = self.done
        super().on_train_batch_end(trainer, module)
        if self.done and not before:
            self.on_train_start(trainer, module)


def test_one_worker_is_a2c_with_a_summed_loss_and_resumes_as_it(tmp_path):
    """Three runs that begin new episodes at 100 steps: the third is resumed there."""
    path = tmp_path / "middle.ckpt"
    torch.manual_seed(0)
    data = Experience("CartPole-v1", 200, **SHORT)
    summed = Summed(data.spaces, 200, **LIKE, compile=False)
    fit(summed, data, Reset(tmp_path / "other.ckpt", 100))
    whole, resumed = made(cartpole()), made(cartpole(), seed=9)
    whole.begin_episodes = lambda: None  # the business of its data alone
    fit(whole, cartpole(), Reset(path, 100))
    fit(resumed, cartpole(), ckpt_path=path)
    assert 200 <= whole.env_steps == summed.env_steps == resumed.env_steps
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for name, value in summed.model.state_dict().items():
        torch.testing.assert_close(whole.model.state_dict()[name], value)


class Kill(Callback):
    """Counts what two workers did in two batches, and kills the second."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        workers = batch.loader.workers
        if batch_idx == 0:
            self.pids = [process.pid for process in workers._processes]
            assert module.env_steps > 1000, "200 segments of 6 steps, some of which reset"
        else:
            os.kill(self.pids[1], signal.SIGKILL)


def test_a_worker_that_dies_ends_the_run():
    data, kill = cartpole(2, rollouts_per_batch=200, total_env_steps=10_000), Kill()
    with pytest.raises(UserError, match=r"worker 1 of data\.workers 2 died with exit code -9: resume the run"):
        fit(made(data), data, kill)
    assert data.loader is None
    for pid in kill.pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_error_of_the_environment_ends_the_run():
    data = cartpole(environment="zoo-broken-v0")
    with pytest.raises(UserError, match="returned a reward that is not finite at its step 3"):
        fit(made(data), data)


@pytest.mark.parametrize(
    ("objective", "kind", "actions"),
    [
        ("actor-critic", "one-step", "multi-discrete"),
        ("actor-critic", "one-step", "box"), ("one-step-q", "action-dependent", "discrete"),
        ("one-step-sarsa", "action-dependent", "discrete"), ("n-step-q", "two-step", "discrete"),
    ],
)  # fmt: skip
def test_probes_are_solved(objective, kind, actions):
    """By a worker in this process."""
    arguments = {"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)}
    data = AsynchronousExperience("zoo-probe-v0", environment_arguments=arguments)
    module = made(data, objective=objective, hidden=(16,), gamma=0.5, log_std=-1.0, target_period=None)
    module.configure_optimizers()
    build = module.make_worker()
    worker = build.func(copy.deepcopy(module.model), *build.args[1:])
    collector = Collector(make_vector("zoo-probe-v0", 1, "sync", arguments), 5)
    tickets = torch.multiprocessing.get_context("spawn").Value("q", 0)
    for share in (1.0, 0.1):
        tickets.value = 120
        settings = {"learning_rate": 2e-2 * share, "exploration": 0.5 if module.learns_values else None}
        _play(worker, collector, Order(1 if share == 1 else None, settings), tickets)
    data.trainer = SimpleNamespace(lightning_module=module)
    assert next(iter(data.test_dataloader())).returns.mean() > 0.8


def test_every_worker_explores_otherwise():
    module = made(cartpole(), objective="one-step-q", exploration_rates=(0.1, 0.5), exploration_env_steps=100)
    assert [module._exploration(k) for k in range(3)] == [1, 1, 1]
    module.env_steps += 50
    assert [module._exploration(k) for k in range(3)] == pytest.approx([0.55, 0.75, 0.55])
    module.env_steps += 100
    assert [module._exploration(k) for k in range(3)] == [0.1, 0.5, 0.1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "td"}, "model.objective must be one of actor-critic, one-step-q, one-step-sarsa, n-step-q"),
        ({"optimizer": "sgd"}, "model.optimizer must be one of adam, rmsprop, rmsprop-inside, got 'sgd'"),
        ({"objective": "n-step-q", "exploration_rates": ()}, "model.exploration_rates must be numbers between 0 and 1"),
        ({"target_period": 0}, "model.target_period must be positive or null, got 0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        made(cartpole(), **options)


@pytest.mark.parametrize(("actions", "kind"), [("box", "continuous ones"), ("multi-discrete", "several")])
def test_action_values_are_of_one_discrete_action(actions, kind):
    data = AsynchronousExperience("zoo-probe-v0", environment_arguments={"actions": [*ACTIONS].index(actions)})
    with pytest.raises(UserError, match=f"this environment has {kind}: set model.objective actor-critic"):
        made(data, objective="one-step-q")


@pytest.mark.parametrize(
    ("module", "data", "options", "words"),
    [
        (A3C, Experience, {}, "set data.class_path to AsynchronousExperience"),
        (PPO, AsynchronousExperience, {}, "PPO takes other data"),
        (A3C, AsynchronousExperience, {"precision": "bf16-mixed"}, "set trainer.precision 32-true"),
    ],
)
def test_what_does_not_fit(module, data, options, words):
    data = data("CartPole-v1", 100)
    with pytest.raises(UserError, match=words):
        fit(module(data.spaces, 100), data, **options)


def test_one_process_on_a_cpu_alone():
    module = made(cartpole())
    for trainer, words in (
        ({"world_size": 2}, "set trainer.devices 1"),
        ({"world_size": 1}, "accelerator cpu, got meta"),
    ):
        module._trainer = SimpleNamespace(**trainer, precision="32-true")
        with pytest.raises(UserError, match=words):
            module.to("meta").on_fit_start()


def test_no_workers_is_refused():
    with pytest.raises(UserError, match=r"data\.workers must be at least 1, got 0"):
        cartpole(0)
