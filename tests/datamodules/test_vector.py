"""Environments end with their run, however that ends; and those that reset themselves in another way are refused."""

import multiprocessing
import os
import signal
import sys
import time

import gymnasium as gym
import lightning as L
import pytest
import torch
from gymnasium.vector import AutoresetMode
from lightning.pytorch.callbacks import Callback

import tests.environments
from datamodules import Experience
from datamodules.experience.vector import close_vector, make_vector
from lightning_modules import PPO
from zoo.errors import UserError

QUIET = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0,
}  # fmt: skip


class Ends(Callback):
    """Ends a run after its first step in one of several ways."""

    def __init__(self, how):
        self.how = how

    def on_train_batch_end(self, *_):
        if self.how == "Ctrl-C":
            raise KeyboardInterrupt
        if self.how == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.how == "error":
            raise RuntimeError("fell over")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDED", str(tmp_path))
    return tmp_path


def counted(folder):
    names = [path.name.split("-")[0] for path in folder.iterdir()]
    return names.count("opened"), names.count("closed")


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # Gymnasium's, of what a worker raised
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "error", "step", "minibatch"])
def test_every_environment_is_closed(vectorization, how, folder):
    """A worker that kept the Trainer's handler of SIGTERM would never leave."""
    arguments = {"fails_at": 12} if how == "step" else {}
    data = Experience(
        "zoo-recorded-v0", 1000, 2, 8, vectorization, arguments, seed=0, rollouts_per_batch=1
    )  # fmt: skip
    torch.manual_seed(0)
    options = {"hidden": (4,), "epochs": 1, "compile": False, "minibatch_size": 5 if how == "minibatch" else 16}
    began = time.perf_counter()
    with pytest.raises((SystemExit, RuntimeError, UserError)):
        L.Trainer(**QUIET, callbacks=[Ends(how)]).fit(PPO(data.spaces, 1000, **options), datamodule=data)
    assert time.perf_counter() - began < 30
    opened, closed = counted(folder)
    assert opened == closed >= 4
    assert not [child for child in multiprocessing.active_children() if "Env" in child.name]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves Ctrl-C ignored


def test_environments_that_cannot_all_be_opened_are_closed(folder, monkeypatch):
    made = []

    def refuses_the_third(name, arguments=None, render=False):
        if len(made) == 3:
            raise OSError("no more licences")
        made.append(tests.environments.Recorded())
        return made[-1]

    monkeypatch.setattr("datamodules.experience.vector.make", refuses_the_third)
    with pytest.raises(OSError, match="licences"):
        make_vector("zoo-recorded-v0", 4, "sync", None)
    assert counted(folder) == (3, 3)


def test_a_worker_that_was_not_forked_knows_an_environment_of_a_user(tmp_path, monkeypatch):
    """As on macOS, and everywhere from Python 3.14 on."""
    (tmp_path / "robots.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('robot-v0', CartPoleEnv, max_episode_steps=20)\n"
        "class Own(CartPoleEnv): pass\n"
        "gym.register('robot-own-v0', Own, max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("robots")
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        envs = make_vector("robot-own-v0", 1, "async", None)
        assert envs.reset(seed=0)[0].shape == (1, 4)
        close_vector(envs)
    finally:
        multiprocessing.set_start_method(before, force=True)
        for name in ("robot-v0", "robot-own-v0"):
            gym.registry.pop(name)
        sys.modules.pop("robots")


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, None])
def test_native_environments_that_reset_in_another_way_are_refused(mode, monkeypatch):
    """Taken for NEXT_STEP, their rows at a cut would join two episodes."""
    metadata = {} if mode is None else {"autoreset_mode": mode}
    monkeypatch.setattr(tests.environments.NativeCounting, "metadata", metadata)
    with pytest.raises(UserError, match=r"zoo-counting-v0 has .*autoreset_mode.*NEXT_STEP is needed: set data.vect"):
        make_vector("zoo-counting-v0", 2, "native", None)
