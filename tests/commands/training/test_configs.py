import inspect
import math
import sys
from pathlib import Path

import pytest
import yaml

import checkpoints
import datamodules
import lightning_modules
from commands.main import main
from commands.training import cli
from commands.training.configs import arrange
from tests.runs import (
    read,
)
from tests.standins import write_cifar10, write_idx, write_pictures
from zoo.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


PATHS = sorted((ROOT / "configs").glob("*.yaml"))
SMALLEST = ("pendulum", "cartpole", "payoff")


def cases():
    """Every config; in the normal run one for each algorithm and each data set, of environments the smallest."""
    seen = set()
    for path in sorted(PATHS, key=lambda path: (not any(name in path.stem for name in SMALLEST), path)):
        config = yaml.safe_load(path.read_text())
        if config["model"]["class_path"] == "VQPrior":
            continue  # tests/zoo/vae/test_vqvae.py runs both of its stages
        new = {config[part]["class_path"] for part in ("model", "data")} - seen
        seen |= new
        yield pytest.param(path, id=path.stem, marks=() if new else pytest.mark.slow)


@pytest.fixture(scope="module")
def parse():
    """What `fit` does with its words before it makes anything from them."""
    kept = []

    def keep(self, parser, arguments):
        kept.append((self, parser))
        raise UserError("kept")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-zoo"])
        patch.setattr(cli.CommandLine, "parse_arguments", keep)
        with pytest.raises(UserError, match="kept"):
            cli.run("fit", [])
    line, parser = kept[0]

    def run(*words):
        line.parse_arguments(parser, ["fit", *arrange([*words])])
        return line.config.fit

    return run


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_config_names_options_that_exist(path, parse, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning-zoo"])
    config = parse("--config", path.stem)
    written = yaml.safe_load(path.read_text())
    assert config.trainer.default_root_dir == written["trainer"]["default_root_dir"]
    assert config.model.class_path.endswith(written["model"]["class_path"])


@pytest.mark.parametrize("path", [*cases()])
def test_every_config_runs_a_few_steps(path, tiny_run, tmp_path, monkeypatch, command, curve):
    config = yaml.safe_load(path.read_text())
    data, folder = config["data"]["class_path"].rsplit(".", 1)[-1], tmp_path / "run"
    if data == "Experience":
        run_experience(config, path.stem, folder, command)
        return
    if data == "AsynchronousExperience":
        options = ["--config", path.stem, "--trainer.default_root_dir", folder, "--data.total_env_steps", 20]
        assert command("fit", *options, "--data.workers", 1, "--trainer.limit_val_batches", 0).status == 0
        return
    if data == "TabularExperience":
        options = ["--config", path.stem, "--trainer.default_root_dir", folder, "--data.total_env_steps", 100]
        assert command("fit", *options, "--data.steps_per_batch", 50, "--trainer.limit_val_batches", 0).status == 0
        return
    if data == "Replay":
        run_replay(path.stem, folder, command)
        return
    if data == "TeamReplay":
        run_team(path.stem, folder, command)
        return
    options = ["--config", path.stem, "--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu"]
    if data in ("MNIST", "FashionMNIST"):
        write_idx(tmp_path / getattr(datamodules, data).folder, train=40, test=4)
    elif data == "CIFAR10":
        write_cifar10(tmp_path / datamodules.CIFAR10.folder, monkeypatch, each=8, test=4)
    elif data == "ImageFolder":
        write_pictures(tmp_path / "pictures", {"a": 12, "b": 8}, height=40, width=50)
    if data == "Shapes" or data == "Densities":
        options += ["--data.num_train", 20]
    elif "root" in inspect.signature(getattr(datamodules, data)).parameters:
        options += ["--data.root", tmp_path / "pictures" if data == "ImageFolder" else tmp_path]
    module = getattr(lightning_modules, config["model"]["class_path"].rsplit(".", 1)[-1])
    if module is lightning_modules.DDIM:
        if config["model"]["init_args"]["denoiser"] not in checkpoints.shipped():
            assert main(["export", str(tiny_run / "last.ckpt"), str(tmp_path / "model")]) == 0
            options += ["--model.denoiser", tmp_path / "model", "--model.steps", 3]
        options += ["--data.num_samples", 3]
        assert command("predict", *options).status == 0
        assert (folder / "predictions.png").is_file()
        return
    if data in ("MNIST", "FashionMNIST", "CIFAR10"):
        options += ["--model.channels", 8]  # two steps of the network at its full width take 10 s
    if any("SamplePictures" in callback["class_path"] for callback in config["trainer"].get("callbacks", ())):
        options += ["--trainer.callbacks.num_samples", 2, "--trainer.callbacks.steps", 2]
    options += ["--trainer.max_epochs", 1, "--data.batches_per_epoch", 2, "--data.batch_size", 3]
    options += ["--trainer.limit_val_batches", 1, "--trainer.log_every_n_steps", 1]
    if config["model"].get("init_args", {}).get("compile"):
        options += ["--model.compile", "false"]  # it takes longer than all other tests together
    assert command("fit", *options).status == 0
    assert read(folder / "last.ckpt")["global_step"] == 2
    assert all(math.isfinite(value) for _, value in curve(folder, "val/loss"))


def run_replay(name, folder, command):
    """Two rounds of a config, with tiny networks and minibatches."""
    options = ["--config", name, "--trainer.default_root_dir", folder, "--data.total_env_steps", 20]
    options += ["--data.warmup_env_steps", 12, "--data.update_every", 4, "--data.batch_size", 3]
    options += ["--data.num_envs", 4, "--data.n_step", 2]
    options += ["--model.hidden", "[4]", "--model.compile", "false", "--trainer.limit_val_batches", 0]
    assert command("fit", *options).status == 0
    assert read(folder / "last.ckpt")["env_steps"] == 20


def run_team(name, folder, command):
    """Two rounds of a config."""
    options = ["--config", name, "--trainer.default_root_dir", folder, "--data.total_env_steps", 10]
    options += ["--data.num_envs", 4, "--data.warmup_episodes", 4, "--data.updates_per_round", 1]
    options += ["--data.batch_size", 3, "--model.compile", "false", "--trainer.limit_val_batches", 0]
    assert command("fit", *options).status == 0
    assert read(folder / "last.ckpt")["env_steps"] >= 10


def run_experience(config, name, folder, command):
    """One rollout of a config, with as few epochs as that can take."""
    options = ["--config", name, "--trainer.default_root_dir", folder, "--data.total_env_steps", 1]
    options += ["--model.compile", "false", "--trainer.limit_val_batches", 0]
    module = getattr(lightning_modules, config["model"]["class_path"])
    if "epochs" in inspect.signature(module).parameters:
        options += ["--model.epochs", 1]
    assert command("fit", *options).status == 0
    rows = config["data"]["init_args"]["num_envs"] * config["data"]["init_args"]["rollout_steps"]
    assert 0.5 * rows < read(folder / "last.ckpt")["env_steps"] <= rows
