"""Value decomposition in a Trainer: the order of collecting and learning, what it learns, resuming, what is refused."""

from functools import partial

import lightning as L
import pytest
import torch

from datamodules import TeamReplay
from datamodules.teams import environments
from datamodules.teams.episodes import play
from datamodules.teams.replay import TeamLoader
from lightning_modules import ValueDecomposition
from lightning_modules.trainer.progress import save_run
from tests.teams import Counting
from zoo.errors import UserError
from zoo.teams.payoffs import PAYOFFS


def data(environment="matrix/qtran", **options):
    base = {"total_env_steps": 400, "num_envs": 4, "batch_size": 16, "warmup_episodes": 16, "updates_per_round": 4}
    base |= {"team_reward": "shared", "rounds_per_batch": 5, "validation_episodes": 2, "seed": 0}
    return TeamReplay(environment, **(base | options))


def module(source, **options):
    torch.manual_seed(0)
    base = {"hidden": (8,), "epsilon": 1.0, "compile": False, "learning_rate": 0.01}
    return ValueDecomposition(source.team_spaces, source.total_env_steps, **(base | options))


def fit(net, source, folder, callbacks=(), **options):
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, default_root_dir=folder, limit_val_batches=0,
        callbacks=[*callbacks],
    )  # fmt: skip
    trainer.fit(net, datamodule=source, **options)
    return trainer


def test_episodes_and_updates_take_turns(tmp_path, monkeypatch):
    source, events = data(), []
    net = module(source)
    collect, update = TeamLoader.collect, ValueDecomposition.update
    monkeypatch.setattr(TeamLoader, "collect", lambda self: (events.append("collect"), collect(self))[1])
    monkeypatch.setattr(ValueDecomposition, "update", lambda self, b: (events.append("update"), update(self, b))[1])
    fit(net, source, tmp_path)
    assert events[:10] == ["collect", *["update"] * 4, "collect", *["update"] * 4]
    assert int(net.env_steps) == 400, "one step an episode, 4 a round, 16 before"
    assert events.count("collect") == (400 - 16) // 4


def test_targets_follow_slowly(tmp_path):
    source = data(total_env_steps=100)
    net = module(source, method="vdn", tau=1.0, target_period=1)
    fit(net, source, tmp_path)
    for mine, slow in zip(net.model.parameters(), net.target.team.parameters(), strict=True):
        assert torch.equal(mine, slow)
    still = module(source, method="vdn", target_period=10_000)
    before = [parameter.clone() for parameter in still.target.parameters()]
    fit(still, data(total_env_steps=100), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, still.target.parameters(), strict=True))


def test_exploration_falls_with_environment_steps():
    net = module(data(), epsilon=0.1, epsilon_env_steps=200)
    found = []
    for steps in (0, 100, 200, 300):
        net.explore(steps)
        found.append(net.model.epsilon)
    assert found == pytest.approx([1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(("method", "found"), [("qtran", 8.0), ("vdn", 0.0)])
def test_qtran_finds_what_an_additive_value_cannot(tmp_path, method, found):
    source = data(total_env_steps=1000, num_envs=50, batch_size=64, updates_per_round=40, warmup_episodes=200)
    net = module(source, method=method, hidden=(), gamma=0.0, last_action=False, learning_rate=0.05)
    fit(net, source, tmp_path)
    actions = net.model.act(torch.ones(2, 1)).tolist()
    assert PAYOFFS["qtran"][actions[0]][actions[1]] == found


@pytest.mark.parametrize(("method", "found"), [("vdn", 7.0), ("qmix", 8.0)])
def test_the_two_step_game_pays_seven_by_a_sum_and_eight_by_qmix(tmp_path, method, found):
    source = data("matrix/two-step", total_env_steps=1400, num_envs=50, updates_per_round=40, warmup_episodes=200)
    net = module(source, method=method, hidden=(), last_action=False, learning_rate=0.02, tau=0.5, gamma=0.99)
    fit(net, source, tmp_path)
    assert play(source.make(1), net.model, [0], reward="shared").returns.tolist() == [found]


class Save(L.Callback):
    """Saves the run at its end, as the command line does."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        save_run(trainer, self.path)


@pytest.mark.parametrize("method", ["vdn", "qmix"])
def test_a_resumed_run_is_the_run(tmp_path, method):
    def run(steps, callbacks=(), **options):
        source = data(total_env_steps=steps, save_replay=True, rounds_per_batch=1)
        net = module(source, method=method)
        fit(net, source, tmp_path, callbacks, **options)
        return net

    whole = run(120)
    run(60, [Save(tmp_path / "half.ckpt")])
    resumed = run(120, ckpt_path=tmp_path / "half.ckpt")
    assert int(resumed.env_steps) == int(whole.env_steps) == 120
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_what_is_refused(monkeypatch):
    source = data()
    for options, message in (
        ({"method": "mix"}, "model.method must be one of independent"),
        ({"td_lambda": 2.0}, "model.td_lambda must be between 0 and 1"),
        ({"quantiles": 4}, "model.quantiles must be above 1 for resz"),
        ({"method": "resz"}, "model.quantiles must be above 1 for resz"),
        ({"target_period": 0}, "model.target_period must be positive"),
    ):
        with pytest.raises(UserError, match=message):
            module(source, **options)
    monkeypatch.setitem(environments.PARALLEL, "unlike", partial(Counting, shapes=(2, 4), actions=(3, 2)))
    unlike = data("unlike", team_reward="sum")
    with pytest.raises(UserError, match="cannot share one network"):
        module(unlike)
    assert module(unlike, shared=False).model.shape == (2, 4)
    for option in ("num_envs", "batch_size", "capacity", "warmup_episodes", "updates_per_round"):
        with pytest.raises(UserError, match=f"data.{option} must be at least 1"):
            data(**{option: 0})
    with pytest.raises(UserError, match="one of sum, mean, shared"):
        data(team_reward="most")


def test_agents_of_unlike_spaces_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(environments.PARALLEL, "unlike", partial(Counting, shapes=(2, 4), actions=(3, 2)))
    source = data("unlike", team_reward="sum", total_env_steps=600)
    net = module(source, shared=False, recurrent=True, gamma=0.5, method="vdn")
    fit(net, source, tmp_path)
    net.model.reset(1)
    assert net.model.act(torch.tensor([[0.0, 0, 0, 0], [0, 1, 5, 5]])).tolist() == [2, 1]  # the best paid
