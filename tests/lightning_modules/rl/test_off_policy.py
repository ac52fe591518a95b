"""SAC, TD3 and DDPG in the Trainer: the order of things, what they can learn, how they resume, and two processes."""

import functools
import math
import re
import shutil

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import Replay
from datamodules.experience.replay import ReplayBuffer, TransitionCollector
from lightning_modules import DDPG, SAC, TD3
from lightning_modules.trainer.progress import save_run
from tests.environments import ACTIONS, Probe
from zoo.errors import UserError
from zoo.rl.flat import FlatAdam
from zoo.rl.types import Transitions

QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0,
}  # fmt: skip
ALGORITHMS = {"sac": SAC, "td3": TD3, "ddpg": DDPG}
every = pytest.mark.parametrize("name", ALGORITHMS)
COLD = {"alpha": 0.01, "learn_alpha": False}
LEARNED = ("discounting", "time-limit")
PENDULUM = {"num_envs": 2, "update_every": 2, "warmup_env_steps": 20, "batch_size": 8, "rounds_per_batch": 7, "seed": 3}


def made(name, data, seed=0, **options):
    torch.manual_seed(seed)
    return ALGORITHMS[name](data.spaces, data.total_env_steps, **({"hidden": (8, 8), "compile": False} | options))


def fit(model, data, *callbacks, ckpt_path=None, **options):
    trainer = L.Trainer(**(QUIET | {"limit_val_batches": 0} | options), callbacks=[*callbacks])
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_warm_up_then_collect_and_learn_by_turns(monkeypatch):
    done = []
    collect, update, sample = TransitionCollector.collect, SAC.update, ReplayBuffer.sample
    for of, name, function, word in (
        (TransitionCollector, "collect", collect, "collect"), (SAC, "update", update, "learn"),
        (ReplayBuffer, "sample", sample, "sample"),
    ):  # fmt: skip
        monkeypatch.setattr(of, name, lambda *a, f=function, w=word: (done.append(w), f(*a))[1])
    data = Replay("Pendulum-v1", 61, warmup_env_steps=20, update_every=6, replay_ratio=0.5, batch_size=4, seed=0)
    model = fit(made("sac", data), data)
    assert done == ["collect"] + ["collect", "sample", "learn", "learn", "learn"] * 7, "one gather for all of a step"
    assert model.env_steps == 20 + 6 * 7


def test_env_steps_are_exact_where_environments_reset():
    data = Replay("zoo-counting-v0", 100, num_envs=2, warmup_env_steps=10, update_every=4, rounds_per_batch=5, seed=0)
    counts = []

    class Count(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            counts.append((int(module.env_steps), trainer.datamodule.loader.buffer.size))

    fit(made("sac", data), data, Count())
    assert all(rows == min(env_steps, 100) for env_steps, rows in counts), "each transition is counted and kept once"
    assert 102 <= counts[-1][0] <= 103, "10, then 23 rounds of 4, whole vector steps"


def solved(name, kind, actions="box", **options):
    """Trains on a probe; the mean return of the final policy, and Q of the first observation under its action."""
    arguments = {"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index(actions)}
    changes = {key: options.pop(key) for key in ("n_step", "num_envs", "update_every") if key in options}
    data = Replay(
        "zoo-probe-v0", 900, warmup_env_steps=300, batch_size=64, seed=1, environment_arguments=arguments, **changes
    )
    base = {"hidden": (16, 16), "learning_rate": 1e-2, "tau": 0.05, "gamma": 0.5, "anneal": True}
    model = fit(made(name, data, **(base | options)), data)
    data.trainer = model.trainer
    with torch.no_grad():
        returns = next(iter(data.test_dataloader())).returns.mean()
        first = torch.tensor([[1.0, 0.0 if kind == "time-limit" else -1.0]])
        best = model.model.distribution.mode(model.model(first))
        values = model.critics(first)[0, 0, best.long()[0]] if model.model.num_actions else None
        return returns, float(values if values is not None else model.critics(torch.cat([first, best], 1))[0])


# where the first action is paid for at the second step, what is seen there does not say which it was: a value learned
# from single steps cannot know, and two of n steps can (below)
# SAC and TD3 learn what discounting is and where an episode ends; DDPG is a TD3, to the bit (below). The other pairs
# run with the slow tests
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if kind in LEARNED and name != "ddpg" else pytest.mark.slow)
        for kind in ("bandit", "one-step", "action-dependent", *LEARNED)
        for name in ALGORITHMS
    ],
)
def test_probes_are_solved(kind, name):
    returns, value = solved(name, kind, **({"alpha": 0.01, "learn_alpha": False} if name == "sac" else {}))
    best = 4.0 if kind == "time-limit" else 1.0
    assert returns > 0.9 * best
    # the value under gamma 1/2; targets of 600 updates are still on their way
    expected = {"time-limit": 2.0, "discounting": 0.5, "action-dependent": 0.5}.get(kind, 1.0)
    assert value == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        pytest.param(
            "sac", "one-step", {"actions": "discrete", "alpha": 0.05, "learn_alpha": False}, marks=pytest.mark.slow
        ),
        ("sac", "action-dependent", {"actions": "discrete", "alpha": 0.05, "learn_alpha": False}),
        pytest.param("sac", "one-step", {}, marks=pytest.mark.slow),
        pytest.param("sac", "one-step", {"value_network": True} | COLD, marks=pytest.mark.slow),
        (
            "sac",
            "action-dependent",
            {"actions": "discrete", "value_network": True, "target_period": 10, "tau": 1.0} | COLD,
        ),
        ("sac", "two-step", {"n_step": 3, "alpha": 0.01, "learn_alpha": False}),
        ("td3", "two-step", {"n_step": 2, "num_envs": 4, "update_every": 4}),
        ("ddpg", "bandit", {"drift": True, "critic_learning_rate": 2e-2}),
    ],
)
def test_options_still_solve_probes(name, kind, options):
    assert solved(name, kind, **options)[0] > 0.9


def test_td3_without_what_it_adds_is_ddpg_to_the_bit():
    data = Replay("Pendulum-v1", 80, **PENDULUM)
    ddpg = fit(made("ddpg", data, sigma=0.1), data)
    again = Replay("Pendulum-v1", 80, **PENDULUM)
    td3 = made("td3", again, num_critics=1, delay=1, target_sigma=0.0)

    class SameNoise(Callback):
        """DDPG draws none for its target: what TD3 draws there is given back."""

        def on_train_start(self, trainer, module):
            self.draws = torch.randn

            def without(shape, **options):
                state = torch.get_rng_state()
                drawn = self.draws(shape, **options)
                torch.set_rng_state(state)
                return drawn

            # of the update only: its shape is one tuple, that of the exploration several numbers
            torch.randn = lambda *shape, **o: (without if isinstance(shape[0], tuple) else self.draws)(*shape, **o)

        def on_train_end(self, trainer, module):
            torch.randn = self.draws

    fit(td3, again, SameNoise())
    for part in ("model", "critics", "target_actor", "targets"):
        for one, other in zip(getattr(ddpg, part).parameters(), getattr(td3, part).parameters(), strict=True):
            assert torch.equal(one, other), part


def test_ddpg_without_copies_and_memory_is_dpg(monkeypatch):
    """Learning from each transition once, as it comes, by its own networks: on-line, as in Silver et al. 2014."""
    seen, update = [], DDPG.update

    def noted(self, minibatch):
        seen.append(minibatch[0].clone())
        said = update(self, minibatch)
        for target, network in ((self.targets, self.critics), (self.target_actor, self.model)):
            assert equal(target, network)
        return said

    monkeypatch.setattr(DDPG, "update", noted)
    data = Replay("Pendulum-v1", 60, warmup_env_steps=1, batch_size=1, capacity=1, seed=0)
    fit(made("ddpg", data, tau=1.0), data)
    rows = Transitions.unpack(torch.stack(seen), 1)
    assert len(seen) == 59, "one for each step after the first"
    assert torch.equal(rows.next_observations[:-1], rows.observations[1:]), "in the order of the episode"


def test_targets_are_followed_or_copied():
    data = Replay("Pendulum-v1", 20 + 14, **PENDULUM)
    copied = fit(made("sac", data, tau=1.0, target_period=5, value_network=True), data)  # after 10 of 14
    assert copied.updates == 14
    assert not equal(copied.targets, copied.value)
    data = Replay("Pendulum-v1", 20 + 14, **PENDULUM)
    copied = fit(made("sac", data, tau=1.0, target_period=7, value_network=True), data)
    assert equal(copied.targets, copied.value)


def test_the_actor_is_delayed_and_the_phase_is_saved():
    data = Replay("Pendulum-v1", 20 + 14, **PENDULUM)
    model = made("td3", data, delay=3)
    moved, before = [], [p.clone() for p in model.model.parameters()]

    class Watch(Callback):
        def on_train_start(self, trainer, module):
            update = module.update

            def counted(*arguments):
                moved.append(not all(torch.equal(a, b) for a, b in zip(before, module.model.parameters(), strict=True)))
                return update(*arguments)

            module.update = counted

    fit(model, data, Watch())
    # (34 - 20) / 2 rounds of two updates; the actor moves after the third
    assert moved == [False] * 3 + [True] * 11
    assert model.state_dict()["updates"] == 14


def test_the_temperature_leads_to_its_entropy():
    data = Replay(
        "zoo-probe-v0",
        700,
        warmup_env_steps=100,
        batch_size=64,
        rounds_per_batch=50,
        seed=0,
        environment_arguments={"actions": 2},
    )
    model = fit(made("sac", data, learning_rate=1e-2, target_entropy=-0.5), data)
    entropy = -float(model.trainer.callback_metrics["train/log_prob"])
    assert entropy == pytest.approx(-0.5, abs=0.3)
    assert model.temperature["log_alpha"].item() != 0
    data = Replay("Pendulum-v1", 60, **PENDULUM)
    fixed = fit(made("sac", data, alpha=0.2, learn_alpha=False), data)
    assert fixed.temperature["log_alpha"].exp().item() == pytest.approx(0.2)


def test_the_default_target_entropy_can_be_reached():
    box = made("sac", Replay("Pendulum-v1", 100))
    discrete = made("sac", Replay("CartPole-v1", 100))
    assert box.target_entropy == -1
    assert discrete.target_entropy == pytest.approx(0.5 * math.log(2))


def test_the_temperature_is_bounded():
    """No policy has an entropy above log 2: without a bound alpha would grow until the losses overflow."""
    data = Replay("CartPole-v1", 120, **PENDULUM)
    model = fit(made("sac", data, learning_rate=1.0, target_entropy=2.0, alpha=2.0, max_alpha=3.0), data)
    assert model.temperature["log_alpha"].exp().item() == pytest.approx(3.0)


class ResetAt(Callback):
    """Saves the run, and begins new episodes, when a count of environment steps is passed."""

    def __init__(self, path, env_steps):
        self.path, self.env_steps, self.done = path, env_steps, False

    def on_train_batch_end(self, trainer, module, *_):
        if not self.done and module.env_steps >= self.env_steps:
            self.done = True
            self.random = torch.get_rng_state()
            save_run(trainer, self.path)
            trainer.datamodule.loader.reset()


@pytest.mark.parametrize(
    ("name", "n_step", "options"),
    [
        ("sac", 1, {}),
        ("sac", 1, {"value_network": True, "target_period": 7}),
        ("td3", 3, {}),
        ("ddpg", 1, {"drift": True}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(name, n_step, options, tmp_path):
    path = tmp_path / "middle.ckpt"
    settings = PENDULUM | {"save_replay": True, "capacity": 70, "n_step": n_step}  # it goes round
    whole_data = Replay("Pendulum-v1", 200, **settings)
    saved = ResetAt(path, 100)
    whole = fit(made(name, whole_data, anneal=True, **options), whole_data, saved)

    class Restore(Callback):  # the command line's RunRecord restores the random state before the first round
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

    data = Replay("Pendulum-v1", 200, **settings)
    resumed = fit(made(name, data, seed=9, anneal=True, **options), data, Restore(), ckpt_path=path)
    assert resumed.env_steps == whole.env_steps == 200
    assert equal(whole, resumed)


class SaveAtEnd(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, module):
        save_run(trainer, self.path)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_run_goes_on_to_more_env_steps_with_its_buffer(tmp_path, epochs):
    path, sizes = tmp_path / "last.ckpt", []
    data = Replay("Pendulum-v1", 60, **PENDULUM, save_replay=True)
    fit(made("sac", data), data, SaveAtEnd(path))

    class Size(Callback):
        def on_train_batch_start(self, trainer, module, *_):
            sizes.append(trainer.datamodule.loader.buffer.size)

    again = Replay("Pendulum-v1", 100, **PENDULUM, save_replay=True)
    model = fit(made("sac", again, seed=5), again, Size(), ckpt_path=path, max_epochs=epochs)
    assert sizes[0] == 60, "restored, not collected anew"
    assert model.env_steps == 100


def test_a_buffer_of_another_environment_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    data = Replay("Pendulum-v1", 100, **PENDULUM, save_replay=True)
    fit(made("sac", data), data, ResetAt(path, 50))
    (kept,) = tmp_path.glob("replay-*.pt")
    again = Replay("Pendulum-v1", 100, **PENDULUM, environment_arguments={"g": 5.0}, save_replay=True)
    words = f"{kept} is a replay buffer of environment_arguments None, but this run has {{'g': 5.0}}"
    with pytest.raises(UserError, match=re.escape(words)):
        fit(made("sac", again), again, ckpt_path=path)
    kept.unlink()
    again = Replay("Pendulum-v1", 100, **PENDULUM, save_replay=True)
    with pytest.raises(UserError, match="does not exist: resume from a later checkpoint"):
        fit(made("sac", again), again, ckpt_path=path)
    without = Replay("Pendulum-v1", 100, **PENDULUM)
    assert fit(made("sac", without), without, ckpt_path=path).env_steps >= 100


def test_only_the_newest_buffer_is_kept(tmp_path):
    class Often(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            save_run(trainer, tmp_path / "last.ckpt")

    data = Replay("Pendulum-v1", 100, **PENDULUM, save_replay=True)
    fit(made("sac", data), data, Often())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "replay-100-0.pt"]


@every
def test_what_learns_stays_out_of_the_checkpoint(name):
    """Flat vectors are unregistered: `state_dict`, and with it checkpoints, EMA and DDP, knows the networks alone."""
    data = Replay("Pendulum-v1", 40, **PENDULUM)
    model = made(name, data)
    before = [*model.state_dict()]
    fit(model, data)
    assert [*model.state_dict()] == before
    assert len(model.trainer.optimizers) == (3 if name == "sac" else 2), "the order of an old checkpoint"
    assert model.trainer.optimizers[0].vector is model.critics_learner.vector


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_and_eager_agree(backend, monkeypatch):
    """Tracing is what mixes up seeds and losses; the kernels of the real compiler take half a minute."""
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no compiler")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    for seed in (0, 1):  # the second must not get what was compiled for the first
        runs = []
        for compiled in (False, True):
            data = Replay("Pendulum-v1", 40, **PENDULUM)
            runs.append(fit(made("ddpg", data, seed, compile=compiled), data).state_dict())
        for name, value in runs[0].items():  # kernels round differently, and Adam divides by what is near 0
            torch.testing.assert_close(runs[1][name], value, rtol=1e-2, atol=2e-4)


def test_bfloat16_is_asked_for_by_the_trainer():
    data = Replay("Pendulum-v1", 40, **PENDULUM)
    model = fit(made("sac", data), data, precision="bf16-mixed")
    assert model.model.in_bfloat16
    assert model.critics.in_bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    with pytest.raises(UserError, match="64-true is not known to SAC: 32-true or bf16-mixed"):
        fit(made("sac", data), data, precision="64-true")


@pytest.mark.parametrize("name", ["td3", "ddpg"])
def test_discrete_actions_are_refused(name):
    data = Replay("CartPole-v1", 100)
    with pytest.raises(UserError, match=f"{name.upper()} takes continuous actions, .* use SAC or PPO there"):
        made(name, data)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sac", {"gamma": 1.5}, "model.gamma must be between 0 and 1, got 1.5"),
        ("sac", {"tau": 0.0}, "model.tau must be above 0 and at most 1"),
        ("sac", {"alpha": 0.0}, "model.alpha must be positive"),
        ("sac", {"alpha": 2.0, "max_alpha": 1.0}, "model.alpha must be at most model.max_alpha 1.0, got 2.0"),
        ("td3", {"delay": 0}, "model.delay must be positive"),
        ("td3", {"target_sigma": -0.1}, "model.target_sigma must be at least 0"),
        ("ddpg", {"sigma": float("nan")}, "model.sigma must be at least 0"),
        ("ddpg", {"learning_rate": float("inf")}, "model.learning_rate must be positive and finite"),
    ],
)
def test_wrong_options(name, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        made(name, Replay("Pendulum-v1", 100), **options)


def test_several_discrete_actions_are_refused():
    data = Replay("zoo-probe-v0", 100, environment_arguments={"actions": 1})
    with pytest.raises(UserError, match="SAC takes one discrete action"):
        made("sac", data)


def test_a_single_action_is_refused():
    data = Replay("zoo-probe-v0", 100)
    data.spaces = data.spaces | {"num_actions": (1,)}
    with pytest.raises(UserError, match="SAC needs a choice"):
        made("sac", data)


def test_adam_without_clipping():
    vector, gradient = torch.nn.Parameter(torch.zeros(3)), torch.tensor([3.0, -4.0, 0.0])
    FlatAdam(vector, 0.1, epsilon=0.0 + 1e-8).update(gradient.clone())
    torch.testing.assert_close(vector.detach(), torch.tensor([-0.1, 0.1, 0.0]))
