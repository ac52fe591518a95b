import sys
from pathlib import Path

import pytest
import torch
import yaml

from commands.main import main
from tests.runs import (
    TINY,
)

ABSENT = "cuda" if not torch.cuda.is_available() else "mps"

MISTAKES = {
    "--model.chanels 8": "unknown option 'chanels' of lightning_modules.DDPM; did you mean channels",
    "--modle.channels 8": "--modle.channels",
    "--trainer.max_epoch 3": "unknown option --trainer.max_epoch; did you mean --trainer.max_epochs",
    "--model.channels eight": "'channels' of lightning_modules.DDPM must be a whole number, got eight",
    "--model.class_conditional maybe": "class_conditional",
    "--trainer.precision 12": "trainer.precision",
    "--model Foo": "unknown class 'Foo'; did you mean",
    "--model Classifer": "unknown class 'Classifer'; did you mean Classifier",
    "--data os.system": "'os.system' may not be named in a config",
    "--model torch.nn.Linear": "'torch.nn.Linear' may not be named in a config",
    "--trainer.callbacks+=subprocess.Popen": "'subprocess.Popen' may not be named in a config",
    "--trainer.logger builtins.exec": "'builtins.exec' may not be named in a config",
    "--data.batch_size 0": "data.batch_size must be at least 1, got 0",
    "--data.batches_per_epoch 0": "data.batches_per_epoch must be at least 1, got 0",
    "--trainer.max_epochs -5": "trainer.max_epochs must be positive, got -5",
    "--trainer.limit_train_batches 0": "trainer.limit_train_batches must be positive, got 0",
    "--trainer.strategy ddp_spawn": "trainer.strategy 'ddp_spawn' cannot start this command line: use ddp",
    "--model RealNVP --data Densities --trainer.precision 16-true": "too few to train RealNVP: use 32-true",
    "--model DDPM --data Digits --trainer.precision 16-true": "too few to train DDPM: use 32-true",
    "--trainer.max_epochs 0": "trainer.max_epochs must be positive, got 0",
    "--trainer.max_steps -7": "trainer.max_steps must be positive, got -7",
    "--trainer.log_every_n_steps 0": "trainer.log_every_n_steps must be positive, got 0",
    "--trainer.accumulate_grad_batches 0": "trainer.accumulate_grad_batches must be positive, got 0",
    "--trainer.val_check_interval 0.0": "trainer.val_check_interval must be positive, got 0.0",
    "--save_every_n_epochs 0": "save_every_n_epochs must be at least 1, got 0",
    "--seed_everything -1": "seed_everything must be a whole number between 0 and 4294967295, got -1",
    "--data Densities": "DDPM needs image_shape, which Densities does not provide: name another model",
    "--data Densities --data.name moon --model RealNVP": "data.name must be one of moons",
    "--model RealNVP --model.couplings two": "'couplings' of lightning_modules.RealNVP must be a whole number, got two",
    "--data Densities --model Glow": "Glow needs image_shape, which Densities does not provide",
    "--model.image_shape [3,4,4]": "model.image_shape (3, 4, 4) is not that of Digits, (1, 8, 8): leave it out",
    "--model.learning_rate 0": "model.learning_rate must be positive, got 0",
    "--model.weight_decay -0.5": "model.weight_decay must be at least 0, got -0.5",
    "--model.warmup_steps -1": "model.warmup_steps must be at least 0, got -1",
    "--model.min_snr_gamma 0": "model.min_snr_gamma must be positive, got 0",
    "--model.learning_rate_schedule sine": "must be one of constant, cosine, inverse_sqrt, got 'sine'",
    "--model.num_timesteps 0": "num_timesteps must be at least 1, got 0",
    "--model.channel_multipliers [1,1,1,1,1]": "height and width divisible by 16 for 5 levels",
    "--trainer.callbacks+=lightning_modules.callbacks.EMA --trainer.callbacks.decay 1": "EMA decay must be",
    f"--trainer.accelerator {ABSENT}": "accelerator",
    "--trainer.accelerator abacus": "abacus",
    "--trainer.devices -2": "devices",
    "--trainer.strategy hope": "hope",
    "--data Latents": "Latents has no train_dataloader, which 'fit' needs",
    "--data ImageFolder --data.root nowhere": "data.root 'nowhere' is not a folder",
    "--ckpt_path nowhere.ckpt": "the checkpoint 'nowhere.ckpt' does not exist",
    "--ckpt_path last": "last.ckpt' does not exist",
    "--ckpt_path best": "the checkpoint 'best' does not exist",
    "--ckpt_path .": "'.' is a folder: name a checkpoint, as 'last.ckpt'",
    "--wandb true": "pip install wandb",
    "--trainer.max_epochs x": "'trainer.max_epochs' must be a whole number or null, got x",
    "--data.batch_size 1.5": "'batch_size' of datamodules.Digits must be a whole number, got 1.5",
    "--model.augmentation_labels 3": "must be true or false or null, got 3",
    "--epochs 3": "unknown option --epochs; did you mean --trainer.max_epochs",
    "--model.levels 256": "model.levels 256 is not that of Digits, 17",
    "--trainer.accelerator tpu": "the Trainer lacks a package: ",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_file(words, tmp_path, monkeypatch, refused):
    folder = tmp_path / "run"
    if "wandb" in words:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", folder, *words.split())
    assert MISTAKES[words] in line
    assert not folder.exists()


def test_a_file_is_no_folder_for_a_run(tmp_path, refused):
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "run"):
        line = refused("fit", "--config", TINY, "--trainer.default_root_dir", root)
        assert f"trainer.default_root_dir '{root}': '{tmp_path / 'file'}' is a file" in line
        assert not root.is_dir()


@pytest.mark.parametrize(
    ("config", "data", "message"),
    [
        ("sac-pendulum", "Experience", "SAC learns from a replay buffer: set data.class_path to Replay"),
        ("dqn-cartpole", "Experience", "DQN learns from a replay buffer: set data.class_path to Replay"),
        ("ppo-cartpole", "Replay --data.update_every 8", "Replay is for off-policy learning: PPO takes other data"),
        ("ppo-cartpole", "TabularExperience --data.environment Taxi-v4", "TabularExperience is for Tabular"),
    ],
)
def test_the_data_of_another_loop_are_refused_in_one_line(config, data, message, tmp_path, command):
    words = ["--data", *data.split(), "--model.compile", "false", "--trainer.default_root_dir", tmp_path / "run"]
    answer = command("fit", "--config", config, *words, "--trainer.logger", "false")
    assert answer.status == 2
    assert f"error: {message}" in answer.err.splitlines()[-1]


def test_a_metric_that_is_not_logged_is_named(tmp_path, command):
    names = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/los"]
    answer = command("fit", "--config", TINY, "--trainer.default_root_dir", tmp_path / "run", *names)
    assert answer.status == 2
    last = answer.err.splitlines()[-1]
    assert last.startswith("error: Early stopping conditioned on metric `val/los` which is not available")
    assert "`val/loss`" in last
    assert "Traceback" not in answer.err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    kinds = [callback["class_path"].rsplit(".", 1)[-1] for callback in written["trainer"]["callbacks"]]
    assert kinds == ["EMA", "SamplePictures", "EarlyStopping"], "added to those of the config"


def test_hints_of_a_pretrained_model_lead_on(refused, tmp_path):
    base = (
        "fit",
        "--config",
        TINY,
        "--trainer.default_root_dir",
        tmp_path / "run",
        "--model.pretrained",
        "ddpm-digits",
    )
    assert "set model.channels to 24" in refused(*base)
    line = refused(*base, "--model.channels", 24, "--data", "Shapes", "--data.num_train", 20)
    assert "this comes from the data: choose data that agrees, or another model" in line
    # what the line says does it
    line = refused(*base, "--model.channels", 24, "--model.num_timesteps", 1000, "--model.class_conditional", "true")
    assert "it learned no classes: set model.class_conditional to false" in line


def test_a_config_may_stand_last(refused, tmp_path):
    line = refused("fit", "--model.channels", "eight", "--trainer.default_root_dir", tmp_path, "--config", TINY)
    assert "'channels' of lightning_modules.DDPM" in line


def test_without_a_config_the_configs_are_listed(refused):
    line = refused("fit")
    assert "fit needs a config: --config with a file or one of " in line
    assert " cfg-digits, " in line
    assert "td3-walker2d" in line


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_help_begins_with_a_summary_and_examples(verb, command):
    answer = command(verb, "--help")
    assert answer.status == 0
    summary, _, options = answer.out.partition("usage: ")
    assert f"  {verb} --config " in summary
    assert len(summary.splitlines()) < 20
    assert "--ckpt_path" in options
    assert "full optimization routine" not in summary


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_untrained_weights_are_not_measured(verb, refused, tmp_path):
    line = refused(verb, "--config", TINY, "--trainer.default_root_dir", tmp_path)
    assert f"{verb} needs --ckpt_path: without a checkpoint the weights are untrained" in line


def test_missing_parts_are_named(refused):
    assert "data" in refused("fit", "--model", "DDPM")
    assert "--config 'ddpm-digit' is neither a file nor a known config; did you mean ddpm-digits" in refused(
        "fit", "--config", "ddpm-digit"
    )


def test_absent_data_are_told_and_leave_no_file(tmp_path, command):
    options = ("--data", "MNIST", "--data.root", tmp_path / "nowhere", "--trainer.default_root_dir", tmp_path / "run")
    answer = command("fit", "--config", TINY, *options)
    assert answer.status == 2
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"data.root '{tmp_path}/nowhere' has no complete MNIST" in errors[0]
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()


def test_a_model_of_other_sizes_than_the_data_is_refused(tiny_run, tmp_path, refused):
    assert main(["export", str(tiny_run / "last.ckpt"), str(tmp_path / "model")]) == 0
    line = refused(
        "predict", "--model", "DDIM", "--model.denoiser", tmp_path / "model", "--model.steps", 3, "--data", "Latents",
        "--data.image_shape", "[1, 6, 8]", "--trainer.default_root_dir", tmp_path / "run",
    )  # fmt: skip
    assert "image_shape (1, 8, 8) is not that of the data, (1, 6, 8)" in line
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_trained_is_refused(tiny_run, tmp_path, refused):
    assert main(["export", str(tiny_run / "last.ckpt"), str(tmp_path / "model")]) == 0
    options = ("--model", "DDIM", "--model.denoiser", tmp_path / "model", "--model.steps", 3, "--data", "Digits")
    line = refused("fit", *options, "--trainer.default_root_dir", tmp_path / "run")
    assert "DDIM has no training_step, which 'fit' needs" in line


@pytest.mark.parametrize(
    "place", ["model", "data", "trainer.logger", "trainer.callbacks", "trainer.profiler", "trainer.strategy"]
)
def test_a_module_named_by_a_config_is_never_imported(place, tmp_path, monkeypatch, refused):
    (tmp_path / "attacker.py").write_text(
        f"open({str(tmp_path / 'harm')!r}, 'w').close()\nclass Attack:\n    def __init__(self, **options): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load(Path(TINY).read_text())
    *sections, name = place.split(".")
    section = config[sections[0]] if sections else config
    attack = {"class_path": "attacker.Attack"}
    section[name] = [attack] if name == "callbacks" else attack
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    line = refused("fit", "--config", tmp_path / "config.yaml", "--trainer.default_root_dir", tmp_path / "run")
    assert "attacker.Attack" in line
    assert "attacker" not in sys.modules
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()
