import csv
import io
import math
import pickle
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import checkpoints
import datamodules
import lightning_modules
from commands.main import main
from tests.runs import (
    DDP,
    TINY,
    assert_same_run,
    digits_batches,
    fit,
    fit_with_signal,
    read,
    run,
    run_in_ranks,
    snapshot,
)
from tests.standins import write_cifar10, write_idx, write_pictures

ROOT = Path(__file__).resolve().parents[3]
BATCHES, EPOCHS = 7, 2  # of tiny.yaml


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def curve(folder, name):
    return [(int(row["step"]), float(row[name])) for row in rows(folder) if row[name]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of two epochs without a break; not to be changed."""
    return fit(tmp_path_factory.mktemp("runs") / "straight")


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory):
    """The first of its epochs; not to be changed."""
    return fit(tmp_path_factory.mktemp("runs") / "one", "--trainer.max_epochs", 1)


@pytest.fixture
def resumable(one_epoch, tmp_path):
    """A copy of the run of one epoch, to go on with."""
    folder = tmp_path / "resumable"
    for path, (content, _) in snapshot(one_epoch).items():
        target = folder / Path(path).relative_to(one_epoch)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


# a run and its folder -----------------------------------------------------------------------------------------------


def test_a_run_leaves_its_config_checkpoint_logs_and_pictures(straight):
    names = {str(path.relative_to(straight)) for path in straight.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        "config.yaml",
        "curves.png",
        "hparams.yaml",
        "last.ckpt",
        "metrics.csv",
        "samples/step-0000007.png",
        "samples/step-0000014.png",
    }
    for picture in straight.rglob("*.png"):
        with Image.open(picture) as image:
            assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1], "something is drawn"


def test_losses_are_finite_and_logged_at_every_asked_step(straight):
    train, val = curve(straight, "train/loss"), curve(straight, "val/loss")
    assert [step for step, _ in train] == list(range(BATCHES * EPOCHS))
    assert [step for step, _ in val] == [6, 13]
    assert all(0 < value < 10 and math.isfinite(value) for _, value in train + val)


def test_the_tensorboard_log_holds_the_same_losses_and_the_pictures(straight):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(straight)).Reload()
    logged = {event.step: event.value for event in log.Scalars("val/loss")}
    assert logged == pytest.approx(dict(curve(straight, "val/loss")))
    assert [event.step for event in log.Images("samples")] == [7, 14]


def test_the_written_config_repeats_the_run(straight, tmp_path, command):
    written = straight / "config.yaml"
    assert yaml.safe_load(written.read_text())["model"]["init_args"]["dropout"] == 0.2
    assert command("fit", "--config", written, "--trainer.default_root_dir", tmp_path / "again").status == 0
    assert_same_run(straight / "last.ckpt", tmp_path / "again" / "last.ckpt")


def test_the_training_loss_falls(tmp_path):
    fit(
        tmp_path / "run", "--trainer.max_epochs", 1, "--data.batches_per_epoch", 60, "--data.batch_size", 32,
        "--model.augmentation", 0, "--model.dropout", 0,
    )  # fmt: skip
    losses = torch.tensor([value for _, value in curve(tmp_path / "run", "train/loss")])
    assert losses[-15:].mean() < 0.75 * losses[:15].mean()


def test_another_seed_is_another_run(straight, tmp_path):
    fit(tmp_path / "run", "--seed_everything", 6, "--trainer.max_epochs", 1)
    assert curve(tmp_path / "run", "train/loss")[:3] != curve(straight, "train/loss")[:3]


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(straight, refused):
    before = snapshot(straight)
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", straight)
    assert f"{straight} already holds a run" in line
    assert f"--ckpt_path {straight / 'last.ckpt'}" in line
    assert snapshot(straight) == before


def test_an_interrupted_run_is_not_overwritten_either(straight, tmp_path, refused):
    (tmp_path / "interrupted.ckpt").write_bytes((straight / "last.ckpt").read_bytes())
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", tmp_path)
    assert f"--ckpt_path {tmp_path / 'interrupted.ckpt'}" in line


def test_validate_and_test_measure_the_averaged_weights_and_leave_no_trace(straight, tmp_path, capsys):
    before = snapshot(straight)
    for verb, metric in (("validate", "val/loss"), ("test", "test/bits_per_dim")):
        options = ("--ckpt_path", straight / "last.ckpt", "--trainer.limit_test_batches", 2)
        assert run(verb, straight, *options) == 0
        out = capsys.readouterr().out
        value = float(re.search(rf"{metric}\W+([0-9.]+)", out)[1])
        if verb == "validate":
            # the loss that the run itself logged with its averaged weights
            assert value == pytest.approx(curve(straight, "val/loss")[-1][1], rel=1e-6)
        assert 0 < value < 20
    assert snapshot(straight) == before


def test_pictures_may_be_fewer_than_validations_and_logs_than_steps(tmp_path):
    fit(
        tmp_path / "run", "--trainer.callbacks.every_n_validations", 2, "--trainer.log_every_n_steps", 5,
        "--save_every_n_epochs", 3, "--trainer.max_epochs", 3, "--trainer.enable_progress_bar", "true",
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step-0000014.png"]
    # Lightning writes what was logged at step k with its (k + 1)-st batch
    assert [step for step, _ in curve(tmp_path / "run", "train/loss")] == [4, 9, 14, 19]
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 3 * BATCHES


# going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["last.ckpt", "last"])
def test_a_resumed_run_equals_one_without_a_break(straight, resumable, path):
    before = read(resumable / "last.ckpt")
    assert before["global_step"] == BATCHES
    fit(resumable, "--ckpt_path", resumable / path if path == "last.ckpt" else path)
    assert_same_run(straight / "last.ckpt", resumable / "last.ckpt")
    # the log goes on where it stood
    assert rows(resumable) == rows(straight)
    written = yaml.safe_load((resumable / "config.yaml").read_text())
    assert written["ckpt_path"] is None


def test_a_run_killed_after_its_first_epoch_goes_on_as_if_it_had_not_been(straight, tmp_path):
    folder = tmp_path / "killed"
    status, _ = fit_with_signal(folder, step=BATCHES + 3, number=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert read(folder / "last.ckpt")["global_step"] == BATCHES
    fit(folder, "--ckpt_path", folder / "last.ckpt")
    assert_same_run(straight / "last.ckpt", folder / "last.ckpt")
    assert curve(folder, "val/loss") == curve(straight, "val/loss")


@pytest.mark.parametrize("step", [BATCHES + 3, BATCHES - 1, 2])
def test_ctrl_c_saves_the_running_step_and_says_how_to_go_on(straight, tmp_path, step):
    folder = tmp_path / "a run"
    status, log = fit_with_signal(folder, step=step, number=signal.SIGINT)
    assert status == 130
    assert "Traceback" not in log
    assert read(folder / "interrupted.ckpt")["global_step"] == step + 1
    assert (folder / "curves.png").is_file()
    told = re.search(r"^interrupted; to go on: python cli.py (.+)$", log, re.M)[1]
    words = shlex.split(told)
    assert words[-2:] == ["--ckpt_path", str(folder / "interrupted.ckpt")]
    before = sys.argv
    try:
        assert main(words) == 0
    finally:
        sys.argv = before
    assert_same_run(straight / "last.ckpt", folder / "last.ckpt")
    # the log goes on where it stood, but for the step that was running: Lightning logs a step after its last hook
    whole = [row for row in rows(straight) if row["val/loss"] or int(row["step"]) not in (step, BATCHES - 1)]
    assert [row for row in rows(folder) if row in whole] == whole
    assert curve(folder, "val/loss") == curve(straight, "val/loss")
    assert not (folder / "interrupted.ckpt").exists()


def test_a_polite_kill_says_how_to_go_on_from_the_last_epoch(tmp_path):
    status, log = fit_with_signal(tmp_path / "run", step=BATCHES + 3, number=signal.SIGTERM)
    assert status == 130, "not 0, by which a queue would take the run for finished"
    assert log.endswith(f"--ckpt_path {tmp_path / 'run' / 'last.ckpt'}\n")


def test_ctrl_c_leaves_the_handler_of_the_caller_alone(resumable):
    handler = signal.getsignal(signal.SIGINT)
    fit(resumable, "--ckpt_path", resumable / "last.ckpt")
    assert signal.getsignal(signal.SIGINT) is handler


# several processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Two processes that Lightning started from the command line."""
    folder = tmp_path_factory.mktemp("ddp") / "launched"
    words = ["fit", "--config", TINY, "--trainer.default_root_dir", folder, *DDP]
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", *map(str, words)], cwd=folder.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"finished; the run is in {folder}") == 1
    return folder


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, straight):
    """(folder, what each rank saw): two processes train one epoch, go on with a second, and predict."""
    folder = tmp_path_factory.mktemp("ddp")
    model = folder / "model"
    assert main(["export", str(straight / "last.ckpt"), str(model)]) == 0
    commands = [
        ["fit", folder / "run", *DDP, "--trainer.max_epochs", 1],
        ["fit", folder / "run", *DDP, "--ckpt_path", folder / "run" / "last.ckpt"],
        ["predict", folder / "run", *DDP[:4], *predict_options(model)],
    ]
    return folder, run_in_ranks(folder, *commands)


def predict_options(model):
    return [
        "--model", "DDIM", "--model.denoiser", model, "--model.steps", 3,
        "--data", "Latents", "--data.num_samples", 9, "--data.batch_size", 2, "--data.seed", 4,
    ]  # fmt: skip


def test_two_processes_end_with_equal_weights_from_different_rows_and_noise(ranks):
    _, (first, second) = ranks
    assert len(first["images"]) == EPOCHS * BATCHES
    for one, two, both in zip(first["images"], second["images"], digits_batches(14, size=12), strict=True):
        assert torch.equal(torch.cat([one, two]), both), "the halves of what one process would read"
    for one, two in zip(first["noise"], second["noise"], strict=True):
        assert (one != two).all()
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())


def test_two_processes_started_by_lightning_do_the_same_and_a_break_changes_nothing(ranks, launched):
    folder, _ = ranks
    assert_same_run(folder / "run" / "last.ckpt", launched / "last.ckpt")
    states = read(launched / "last.ckpt")["random_states"]["cpu"]
    assert len(states) == 2
    assert not torch.equal(*states)
    assert curve(launched, "val/loss") == curve(folder / "run", "val/loss")


def test_two_processes_each_write_their_share_of_the_predictions(ranks, tmp_path):
    folder, _ = ranks
    assert run("predict", tmp_path, *predict_options(folder / "model")) == 0
    whole = load_file(tmp_path / "predictions.safetensors")["predictions"]
    assert whole.shape == (9, 1, 8, 8)
    for rank in range(2):
        share = load_file(folder / "run" / f"predictions-{rank}.safetensors")["predictions"]
        # other neighbours in the batch, so other sums in the last bit
        assert torch.allclose(share, whole[rank::2], atol=1e-5)
        assert (folder / "run" / f"predictions-{rank}.png").is_file()


# configs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_runs_a_few_steps(path, straight, tmp_path, monkeypatch, command):
    config = yaml.safe_load(path.read_text())
    data, folder = config["data"]["class_path"].rsplit(".", 1)[-1], tmp_path / "run"
    if data == "Experience":
        run_experience(config, path.stem, folder, command)
        return
    if data == "Replay":
        run_replay(path.stem, folder, command)
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
    elif data not in ("Digits", "Latents"):
        options += ["--data.root", tmp_path / "pictures" if data == "ImageFolder" else tmp_path]
    module = getattr(lightning_modules, config["model"]["class_path"].rsplit(".", 1)[-1])
    if module is lightning_modules.DDIM:
        if config["model"]["init_args"]["denoiser"] not in checkpoints.shipped():
            assert main(["export", str(straight / "last.ckpt"), str(tmp_path / "model")]) == 0
            options += ["--model.denoiser", tmp_path / "model", "--model.steps", 3]
        options += ["--data.num_samples", 3]
        assert command("predict", *options).status == 0
        assert (folder / "predictions.png").is_file()
        return
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
    options += ["--model.hidden", "[4]", "--model.compile", "false", "--trainer.limit_val_batches", 0]
    assert command("fit", *options).status == 0
    assert read(folder / "last.ckpt")["env_steps"] == 20


def run_experience(config, name, folder, command):
    """One rollout of a config, with as few epochs as that can take."""
    options = ["--config", name, "--trainer.default_root_dir", folder, "--data.total_env_steps", 1]
    options += ["--model.compile", "false", "--model.epochs", 1, "--trainer.limit_val_batches", 0]
    assert command("fit", *options).status == 0
    rows = config["data"]["init_args"]["num_envs"] * config["data"]["init_args"]["rollout_steps"]
    assert 0.5 * rows < read(folder / "last.ckpt")["env_steps"] <= rows


# mistakes -----------------------------------------------------------------------------------------------------------

ABSENT = "cuda" if not torch.cuda.is_available() else "mps"

MISTAKES = {
    "--model.chanels 8": "unknown option 'chanels' of lightning_modules.DDPM; did you mean channels",
    "--modle.channels 8": "--modle.channels",
    "--trainer.max_epoch 3": "--trainer.max_epoch",
    "--model.channels eight": "'channels' of lightning_modules.DDPM: Expected a <class 'int'>. Got value: eight",
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
    "--trainer.max_epochs 0": "trainer.max_epochs must be positive, got 0",
    "--trainer.max_steps -7": "trainer.max_steps must be positive, got -7",
    "--trainer.log_every_n_steps 0": "trainer.log_every_n_steps must be positive, got 0",
    "--trainer.accumulate_grad_batches 0": "trainer.accumulate_grad_batches must be positive, got 0",
    "--trainer.val_check_interval 0.0": "trainer.val_check_interval must be positive, got 0.0",
    "--save_every_n_epochs 0": "save_every_n_epochs must be at least 1, got 0",
    "--seed_everything -1": "seed_everything must be a whole number between 0 and 4294967295, got -1",
    "--data Densities": "DDPM needs image_shape, which Densities has not: name another model",
    "--data Densities --data.name moon --model RealNVP": "data.name must be one of moons",
    "--model RealNVP --model.couplings two": "'couplings' of lightning_modules.RealNVP: Expected a <class 'int'>",
    "--data Densities --model Glow": "Glow needs image_shape, which Densities has not",
    "--model.image_shape [3,4,4]": "model.image_shape (3, 4, 4) is not that of Digits, (1, 8, 8): leave it out",
    "--model.learning_rate 0": "model.learning_rate must be positive, got 0",
    "--model.weight_decay -0.5": "model.weight_decay must be at least 0, got -0.5",
    "--model.warmup_steps -1": "model.warmup_steps must be at least 0, got -1",
    "--model.min_snr_gamma 0": "model.min_snr_gamma must be positive, got 0",
    "--model.learning_rate_schedule sine": "model.learning_rate_schedule must be one of constant, cosine, got 'sine'",
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
    "--wandb true": "pip install wandb",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_file(words, tmp_path, monkeypatch, refused):
    folder = tmp_path / "run"
    if "wandb" in words:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", folder, *words.split())
    assert MISTAKES[words] in line
    assert not folder.exists()


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


def test_a_folder_that_cannot_be_written_is_told(tmp_path, command):
    (tmp_path / "file").write_text("in the way")
    answer = command("fit", "--config", TINY, "--trainer.default_root_dir", tmp_path / "file" / "run")
    assert answer.status == 2
    assert answer.err.splitlines()[-1].startswith(f"error: the run in {tmp_path}/file/run cannot go on:")
    assert "Traceback" not in answer.err


def test_a_model_of_other_sizes_than_the_data_is_refused(straight, tmp_path, refused):
    assert main(["export", str(straight / "last.ckpt"), str(tmp_path / "model")]) == 0
    line = refused(
        "predict", "--model", "DDIM", "--model.denoiser", tmp_path / "model", "--model.steps", 3, "--data", "Latents",
        "--data.image_shape", "[1, 6, 8]", "--trainer.default_root_dir", tmp_path / "run",
    )  # fmt: skip
    assert "image_shape (1, 8, 8) is not that of the data, (1, 6, 8)" in line
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_trained_is_refused(straight, tmp_path, refused):
    assert main(["export", str(straight / "last.ckpt"), str(tmp_path / "model")]) == 0
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


# checkpoints that are none ------------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "text", "foreign", "list", "bomb", "bomb in a checkpoint", "raw bomb", "folder"]
)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_file_that_is_no_checkpoint_is_refused_and_never_run(kind, verb, straight, tmp_path, refused):
    path, good = tmp_path / "some.ckpt", (straight / "last.ckpt").read_bytes()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": lambda: b"",
                "truncated": lambda: good[: len(good) // 2],
                "text": lambda: b"weights\n" * 20,
                "foreign": lambda: saved({"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2.0.0"}),
                "list": lambda: saved([1, 2]),
                "bomb": lambda: saved(Bomb(tmp_path / "harm")),
                "bomb in a checkpoint": lambda: saved(read(straight / "last.ckpt") | {"x": Bomb(tmp_path / "harm")}),
                "raw bomb": lambda: pickle.dumps(Bomb(tmp_path / "harm")),
            }[kind]()
        )
    line = refused(verb, "--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--ckpt_path", path)
    assert str(path) in line
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture_or_class_is_refused(straight, tmp_path, refused):
    path = straight / "last.ckpt"
    options = ("--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--ckpt_path", path)
    line = refused("fit", *options, "--model.channels", 12)
    assert f"the checkpoint '{path}' is not of this model" in line
    assert f"use the config of its run, {straight / 'config.yaml'}" in line
    assert "is not of this model" in refused("fit", *options, "--model", "Classifier")
    assert "is not of this model" in refused("test", *options, "--model.attention_levels", "[0]")
    assert not (tmp_path / "run").exists()


def test_the_hyperparameters_of_a_checkpoint_are_not_followed(resumable, tmp_path, monkeypatch):
    # a checkpoint may name a class; Lightning's own command line would take it into the config
    (tmp_path / "attacker.py").write_text("raise SystemExit('attacked')")
    monkeypatch.syspath_prepend(tmp_path)
    content = read(resumable / "last.ckpt")
    content["hyper_parameters"] = {"_class_path": "attacker.Attack", "_instantiator": "attacker.attack", "channels": 99}
    torch.save(content, resumable / "last.ckpt")
    fit(resumable, "--ckpt_path", resumable / "last.ckpt")
    assert "attacker" not in sys.modules
    assert yaml.safe_load((resumable / "config.yaml").read_text())["model"]["init_args"]["channels"] == 8
