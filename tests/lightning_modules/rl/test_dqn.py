"""DQN in the Trainer: the order of things, what it learns, prioritised replay, resuming, and the update of a peer."""

import functools

import gymnasium as gym
import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from datamodules import Replay
from datamodules.experience.off_policy import Rounds
from datamodules.experience.replay import ReplayBuffer, TransitionCollector
from lightning_modules import DQN, SAC
from tests.environments import ACTIONS, Probe
from tests.lightning_modules.rl.test_off_policy import QUIET, ResetAt, equal, fit
from zoo.errors import UserError

CARTPOLE = {"num_envs": 2, "update_every": 2, "warmup_env_steps": 20, "batch_size": 8, "rounds_per_batch": 7, "seed": 3}
KINDS = pytest.mark.parametrize("priority", ["proportional", "rank"])


def made(data, seed=0, **options):
    torch.manual_seed(seed)
    return DQN(data.spaces, data.total_env_steps, **({"hidden": (8, 8), "compile": False} | options))


class Watch(Callback):
    """Notes something of the module before each update."""

    def __init__(self, note):
        self.note, self.noted = note, []

    def on_train_start(self, trainer, module):
        update = module.update

        def noting(minibatch):
            self.noted.append(self.note(module, minibatch))
            return update(minibatch)

        module.update = noting


def test_collect_draw_learn_and_prioritise_by_turns(monkeypatch):
    done = []
    for of, name, word in (
        (TransitionCollector, "collect", "collect"), (DQN, "update", "learn"), (Rounds, "_weighted", "draw"),
        (Rounds, "prioritize", "prioritize"),
    ):  # fmt: skip
        function = getattr(of, name)
        monkeypatch.setattr(of, name, lambda *a, f=function, w=word: (done.append(w), f(*a))[1])
    data = Replay("CartPole-v1", 44, warmup_env_steps=20, update_every=6, replay_ratio=0.5, batch_size=4, seed=0,
                  priority="proportional")  # fmt: skip
    model = fit(made(data), data)
    assert done == ["collect"] + ["collect", "draw", "learn", "learn", "learn", "prioritize"] * 4
    assert model.env_steps == 20 + 6 * 4


def test_epsilon_falls_by_env_steps_and_the_target_is_copied_by_them(monkeypatch):
    data = Replay("CartPole-v1", 100, **CARTPOLE)
    model = made(data, epsilon=0.1, epsilon_env_steps=50, target_period=10)
    steps, copied, acted = [], [], []
    update, sample = DQN.update_target, type(model.model.distribution).sample

    def update_target(self, last, now):
        before = [p.clone() for p in self.target.parameters()]
        update(self, last, now)
        steps.append((last, now))
        copied.append(not all(torch.equal(*pair) for pair in zip(before, self.target.parameters(), strict=True)))
        assert copied[-1] == all(
            torch.equal(*p) for p in zip(self.model.parameters(), self.target.parameters(), strict=True)
        )

    def act(self, *arguments):
        acted.append(self.epsilon)
        return sample(self, *arguments)

    monkeypatch.setattr(DQN, "update_target", update_target)
    monkeypatch.setattr(type(model.model.distribution), "sample", act)
    fit(model, data)
    assert steps[0][0] == 0
    assert [last for last, _ in steps[1:]] == [now for _, now in steps[:-1]]
    assert copied == [now // 10 > last // 10 for last, now in steps]
    assert 8 <= sum(copied) <= 9, "of 100 steps, 20 in the first round"
    falling = [max(0.1, 1 - 0.9 * last / 50) for last, _ in steps]
    assert sorted({round(e, 6) for e in acted}) == sorted({round(e, 6) for e in falling})


def test_without_a_target_network_there_is_none():
    data = Replay("CartPole-v1", 40, **CARTPOLE)
    for period in (None, 0):
        model = fit(made(data, target_period=period), data)
        assert model.target is None
        assert not any(name.startswith("target") for name in model.state_dict())


def solved(kind, **options):
    """Trains on a probe; the mean return of the final policy, and Q of the first observation under its action."""
    changes = {key: options.pop(key) for key in ("n_step", "num_envs", "update_every", "priority") if key in options}
    arguments = {"kind": Probe.KINDS.index(kind), "actions": [*ACTIONS].index("discrete")}
    data = Replay(
        "zoo-probe-v0", 900, warmup_env_steps=300, batch_size=64, seed=1, environment_arguments=arguments, **changes
    )
    base = {"hidden": (16, 16), "learning_rate": 1e-2, "gamma": 0.5, "anneal": True, "target_period": 20}
    model = fit(made(data, **(base | options)), data)
    data.trainer = model.trainer
    with torch.no_grad():
        returns = next(iter(data.test_dataloader())).returns.mean()
        first = torch.tensor([[1.0, 0.0 if kind == "time-limit" else -1.0]])
        return returns, model.model(first).max().item()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("discounting", {"target_period": None}),
        ("action-dependent", {"double": True, "dueling": "mean", "priority": "proportional"}),
        ("two-step", {"n_step": 2, "dueling": "max", "priority": "rank", "huber": False}),
        # a reward of 1 for ever, cut after 4 steps: only a value that goes on from the last observation is 2
        ("time-limit", {}),
        ("time-limit", {"n_step": 3, "num_envs": 4, "update_every": 4, "double": True}),
    ],
)
def test_probes_are_solved(kind, options):
    returns, value = solved(kind, **options)
    assert returns > (0.9 * 4 if kind == "time-limit" else 0.9)
    expected = {"time-limit": 2.0, "discounting": 0.5, "action-dependent": 0.5, "two-step": 0.5}.get(kind, 1.0)
    assert value == pytest.approx(expected, abs=0.1)


class Corridor(gym.Env):
    """Five cells. Right from the last one pays 1 and ends; left pays 0.1 in the first; nothing else is paid."""

    observation_space, action_space = gym.spaces.Discrete(5), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(5))
        return self.cell, {}

    def step(self, action):
        cell, self.cell = self.cell, min(max(self.cell + (1 if action else -1), 0), 4)
        paid = 1.0 if action and cell == 4 else 0.1 if not action and cell == 0 else 0.0
        return self.cell, paid, bool(action and cell == 4), False, {}


gym.register("zoo-corridor-v0", Corridor, max_episode_steps=20)


@pytest.mark.parametrize("options", [{"double": True, "dueling": "mean", "priority": "proportional", "n_step": 1}])
def test_the_values_of_a_corridor_are_reached(options):
    gamma, values = 0.8, np.zeros((5, 2))
    for _ in range(200):  # value iteration
        best = values.max(1)
        values = np.array(
            [[gamma * best[max(s - 1, 0)] + 0.1 * (s == 0), gamma * best[min(s + 1, 4)]] for s in range(5)]
        )
        values[4, 1] = 1.0
    data_options = {key: options[key] for key in ("n_step", "priority") if key in options}
    data = Replay("zoo-corridor-v0", 1500, warmup_env_steps=300, batch_size=64, seed=0, **data_options)
    rest = {key: value for key, value in options.items() if key not in data_options}
    model = fit(
        made(data, hidden=(32,), gamma=gamma, learning_rate=1e-2, target_period=25, epsilon=1.0, anneal=True, **rest),
        data,
    )
    found = model.model(torch.eye(5)).detach()
    # 1,200 updates, targets 25 steps old: each value is within a few hundredths of the exact one
    torch.testing.assert_close(found, torch.tensor(values).float(), rtol=0, atol=0.04)
    assert torch.equal(found.argmax(1), torch.tensor(values).argmax(1))


@KINDS
def test_weights_and_errors_of_rows_reach_each_other(priority):
    data = Replay("CartPole-v1", 60, **CARTPOLE, priority=priority, weight_exponent=0.5)
    drawn = Watch(lambda module, minibatch: minibatch.clone())
    fit(made(data), data, drawn)
    weights = torch.stack(drawn.noted)[..., -1]
    assert weights.shape == (40, 8)
    assert (weights.amax(1) == 1).all(), "the largest of each minibatch"
    assert weights.min() > 0
    if priority == "proportional":
        assert (weights[:2] == 1).all(), "before any error is known, all rows are alike"
    assert (weights[6:] < 1).any()


@KINDS
def test_a_resumed_run_is_the_uninterrupted_one_that_resets_there(priority, tmp_path):
    path = tmp_path / "middle.ckpt"
    settings = CARTPOLE | {"save_replay": True, "capacity": 70, "n_step": 3, "priority": priority}  # it goes round
    options = {"anneal": True, "double": True, "target_period": 30, "epsilon_env_steps": 150}
    whole_data, saved = Replay("CartPole-v1", 200, **settings), ResetAt(path, 100)
    whole = fit(made(whole_data, **options), whole_data, saved)

    class Restore(Callback):  # the command line's RunRecord restores the random state before the first round
        def on_train_start(self, trainer, module):
            torch.set_rng_state(saved.random)

        def on_train_end(self, trainer, module):
            self.priorities = trainer.datamodule.loader.priorities

    data, ended = Replay("CartPole-v1", 200, **settings), Restore()
    resumed = fit(made(data, seed=9, **options), data, ended, ckpt_path=path)
    assert resumed.env_steps == whole.env_steps == 200
    assert equal(whole, resumed)
    other = Replay("CartPole-v1", 200, **(settings | {"priority": None}))
    with pytest.raises(UserError, match=f"is a replay buffer of priority '{priority}', but this run has None"):
        fit(made(other, **options), other, ckpt_path=path)


def test_a_buffer_of_another_capacity_begins_its_priorities_anew():
    from zoo.rl.off_policy.priorities import Priorities

    one, other = ReplayBuffer(9, 1, priorities=Priorities(9, 0.6)), ReplayBuffer(5, 1, priorities=Priorities(5, 0.6))
    one.add(np.arange(7, dtype=np.float32)[:, None])
    one.priorities.update(torch.arange(7), torch.arange(7))
    other.restore(one.state())
    assert other.rows[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert other.priorities.errors.tolist() == [1.0] * 5


def refused(algorithm, environment="CartPole-v1", priority=None, **options):
    data = Replay(environment, 60, **CARTPOLE, priority=priority)
    fit(algorithm(data.spaces, 60, compile=False, **options), data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (functools.partial(refused, DQN, "Pendulum-v1"), "DQN takes one discrete action, .*: use SAC or TD3"),
        (functools.partial(refused, SAC, priority="rank"), "data.priority rank is for DQN, .*: leave it out for SAC"),
        (
            functools.partial(refused, DQN, priority="best"),
            "data.priority must be null, proportional or rank, got 'best'",
        ),
        (
            functools.partial(refused, DQN, dueling="median"),
            "model.dueling must be one of none, mean, max, got 'median'",
        ),
        (functools.partial(refused, DQN, epsilon=-0.1), "model.epsilon must be between 0 and 1, got -0.1"),
        (functools.partial(refused, DQN, epsilon_env_steps=0), "model.epsilon_env_steps must be positive"),
        (functools.partial(refused, DQN, target_period=-5), "model.target_period must be at least 0, or null, got -5"),
        (functools.partial(refused, DQN, tau=0.0), "model.tau must be above 0 and at most 1"),
        (functools.partial(Replay, "CartPole-v1", priority_exponent=-0.1), "data.priority_exponent must be at least 0"),
        (functools.partial(Replay, "CartPole-v1", weight_exponent=1.5), "data.weight_exponent must be between 0 and 1"),
    ],
)
def test_wrong_options_are_one_line(call, words):
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def copy_network(ours, theirs):
    layers = [layer for layer in theirs.q_net if isinstance(layer, torch.nn.Linear)]
    for mine, layer in zip([*ours.trunk, ours.head], layers, strict=True):
        mine.weight.data[:], mine.bias.data[:] = layer.weight.data, layer.bias.data


def test_updates_are_those_of_stable_baselines3(monkeypatch):
    peers = pytest.importorskip("stable_baselines3")
    rows, hidden = 32, (12, 10)
    policy = {"net_arch": [*hidden]}
    theirs = peers.DQN("MlpPolicy", "CartPole-v1", learning_rate=1e-3, seed=1, policy_kwargs=policy, device="cpu")
    rng = np.random.default_rng(0)
    seen, following = (rng.normal(size=(rows, 4)).astype(np.float32) for _ in range(2))
    actions = rng.integers(2, size=(rows, 1))
    rewards, ended = 3 * rng.normal(size=rows).astype(np.float32), rng.random(rows) < 0.3
    batch = peers.common.type_aliases.ReplayBufferSamples(
        *(torch.from_numpy(x) for x in (seen, actions, following, ended[:, None].astype(np.float32), rewards[:, None])),
        torch.full((rows, 1), theirs.gamma),
    )
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *a, **k: batch)
    columns = [seen, actions, rewards[:, None], 0.99 * ~ended[:, None], following]
    matrix = torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))
    data = Replay("CartPole-v1", 100)
    ours = made(data, hidden=hidden, learning_rate=1e-3)
    copy_network(ours.model, theirs.q_net)
    copy_network(ours.target, theirs.q_net_target)
    trainer = L.Trainer(**QUIET)
    trainer.strategy._lightning_module = ours
    ours._trainer = trainer
    ours.configure_optimizers()
    theirs._setup_learn(100)
    theirs.train(gradient_steps=4, batch_size=rows)
    with torch.no_grad():
        for _ in range(4):
            ours.update(matrix)
    expected = made(data, hidden=hidden)
    copy_network(expected.model, theirs.q_net)
    for one, other in zip(ours.model.parameters(), expected.model.parameters(), strict=True):
        # Adam divides by gradients, whose sums are added in another order
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
