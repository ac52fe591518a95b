import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from PIL import Image

import datamodules
from commands.training import parts
from datamodules import Points
from lightning_modules import RealNVP
from lightning_modules.trainer.callbacks import EpochCheckpoint
from tests.runs import (
    TINY,
    TINY_FLOW,
    assert_same_run,
    fit,
    read,
    run,
    snapshot,
)

BATCHES, EPOCHS = 7, 2  # of tiny.yaml


def test_a_run_leaves_its_config_checkpoint_logs_and_pictures(tiny_run):
    names = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
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
    for picture in tiny_run.rglob("*.png"):
        with Image.open(picture) as image:
            assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1], "something is drawn"


def test_losses_are_finite_and_logged_at_every_asked_step(tiny_run, curve):
    train, val = curve(tiny_run, "train/loss"), curve(tiny_run, "val/loss")
    assert [step for step, _ in train] == list(range(BATCHES * EPOCHS))
    assert [step for step, _ in val] == [6, 13]
    assert all(0 < value < 10 and math.isfinite(value) for _, value in train + val)


def test_the_tensorboard_log_holds_the_same_losses_and_the_pictures(tiny_run, curve):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tiny_run)).Reload()
    logged = {event.step: event.value for event in log.Scalars("val/loss")}
    assert logged == pytest.approx(dict(curve(tiny_run, "val/loss")))
    assert [event.step for event in log.Images("samples")] == [7, 14]


def test_the_written_config_repeats_the_run(tiny_run, tmp_path, command):
    written = tiny_run / "config.yaml"
    assert yaml.safe_load(written.read_text())["model"]["init_args"]["dropout"] == 0.2
    assert command("fit", "--config", written, "--trainer.default_root_dir", tmp_path / "again").status == 0
    assert_same_run(tiny_run / "last.ckpt", tmp_path / "again" / "last.ckpt")


def test_the_training_loss_falls(tmp_path, curve):
    fit(
        tmp_path / "run", "--trainer.max_epochs", 1, "--data.batches_per_epoch", 60, "--data.batch_size", 32,
        "--model.augmentation", 0, "--model.dropout", 0, "--trainer.limit_val_batches", 0, "--seed_everything", 6,
    )  # fmt: skip
    losses = torch.tensor([value for _, value in curve(tmp_path / "run", "train/loss")])
    assert losses[-15:].mean() < 0.75 * losses[:15].mean()


def test_what_a_tuner_finds_stands_in_config_and_record(tmp_path):
    finder = ("--trainer.callbacks", "LearningRateFinder", "--trainer.callbacks.num_training_steps", 30)
    finder += ("--trainer.callbacks.max_lr", 0.1, "--trainer.callbacks.early_stop_threshold", "null")
    fit(tmp_path, "--config", TINY_FLOW, "--trainer.max_epochs", 1, "--data.batches_per_epoch", 30, *finder)
    content = read(tmp_path / "last.ckpt")
    found = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["learning_rate"]
    assert found != 3e-3
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == found
    assert content["hyper_parameters"]["learning_rate"] == found


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(resumable, command, rows):
    before = (resumable / "last.ckpt").read_bytes()
    options = ("--ckpt_path", "last", "--model.learning_rate", 1e30)
    answer = command("fit", "--config", TINY, "--trainer.default_root_dir", resumable, *options)
    assert answer.status == 2
    last = answer.err.splitlines()[-1]
    assert re.fullmatch(
        r"error: the run diverged: train/loss is nan at step (8|9|10) with learning rate 1e\+30; "
        rf"try a smaller learning rate, or look for extreme data; the last good checkpoint is {resumable}/last.ckpt",
        last,
    )
    assert (resumable / "last.ckpt").read_bytes() == before


def test_a_trial_writes_and_names_no_folder(tmp_path, command):
    options = ("--trainer.fast_dev_run", "true", "--trainer.default_root_dir", tmp_path / "run")
    answer = command("fit", "--config", TINY, *options)
    assert answer.status == 0
    assert answer.err.splitlines()[-1] == "finished a trial; nothing was written"
    assert str(tmp_path) not in answer.err
    assert not (tmp_path / "run").exists()


def test_a_table_keeps_its_best_checkpoint(tmp_path, curve, capsys):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(60, 2)))
    options = ("--data", "Points", "--data.path", tmp_path / "points.npy", "--trainer.max_epochs", 2)
    # large steps, by which the validation loss rises
    fit(tmp_path / "run", "--config", TINY_FLOW, *options, "--model.learning_rate", 0.3)
    losses = [value for _, value in curve(tmp_path / "run", "val/loss")]
    assert read(tmp_path / "run" / "best.ckpt")["global_step"] == BATCHES * (1 + losses.index(min(losses)))
    assert losses[0] < losses[1]
    assert capsys.readouterr().err.endswith(f"best validation loss: {tmp_path}/run/best.ckpt, the one to export\n")
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 2 * BATCHES


@pytest.mark.parametrize(("batches", "every", "patience"), [(7, 1, 143), (500, 1, 10), (40, 5, 10), (None, 1, 250)])
def test_early_stopping_waits_for_ten_validations_and_a_thousand_steps(batches, every, patience, tmp_path):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(60, 2)))
    data = Points(str(tmp_path / "points.npy"), batch_size=12, batches_per_epoch=batches)  # 48 rows to train on
    best, stop = parts.early_stopping(data, tmp_path, every)
    assert (best.monitor, stop.monitor, stop.patience) == ("val/loss", "val/loss", patience)


@pytest.mark.parametrize("data", ["Digits", "Densities"])
def test_other_runs_end_where_their_config_says(data):
    trainer = Namespace(
        enable_progress_bar=False,
        fast_dev_run=False,
        limit_val_batches=None,
        check_val_every_n_epoch=1,
        val_check_interval=None,
    )
    options = Namespace(trainer=trainer, early_stopping=True, save_every_n_epochs=1)
    module = RealNVP(num_features=2)
    kinds = [type(made) for made in parts.callbacks("fit", module, getattr(datamodules, data)(), Path("."), options)]
    assert EarlyStopping not in kinds
    assert [kind for kind in kinds if issubclass(kind, ModelCheckpoint)] == [EpochCheckpoint]


@pytest.mark.parametrize(("epochs", "label"), [(-1, "Epoch 2"), (None, "Epoch 2"), (5, "Epoch 2/4")])
def test_the_bar_has_no_last_epoch_where_the_run_has_none(epochs, label, monkeypatch):
    bar = parts.EpochBar()
    monkeypatch.setattr(parts.EpochBar, "trainer", Namespace(max_epochs=epochs))
    assert bar._get_train_description(2).strip() == label


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(tiny_run, refused):
    before = snapshot(tiny_run)
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", tiny_run)
    assert f"{tiny_run} already holds a run" in line
    assert f"--ckpt_path {tiny_run / 'last.ckpt'}" in line
    assert snapshot(tiny_run) == before


def test_an_interrupted_run_is_not_overwritten_either(tiny_run, tmp_path, refused):
    (tmp_path / "interrupted.ckpt").write_bytes((tiny_run / "last.ckpt").read_bytes())
    line = refused("fit", "--config", TINY, "--trainer.default_root_dir", tmp_path)
    assert f"--ckpt_path {tmp_path / 'interrupted.ckpt'}" in line


def test_validate_and_test_measure_the_averaged_weights_and_leave_no_trace(tiny_run, tmp_path, capsys, curve):
    before = snapshot(tiny_run)
    for verb, metric in (("validate", "val/loss"), ("test", "test/bits_per_dim")):
        options = ("--ckpt_path", tiny_run / "last.ckpt", "--trainer.limit_test_batches", 2)
        assert run(verb, tiny_run, *options) == 0
        out = capsys.readouterr().out
        value = float(re.search(rf"{metric}\W+([0-9.]+)", out)[1])
        if verb == "validate":
            # the loss that the run itself logged with its averaged weights
            assert value == pytest.approx(curve(tiny_run, "val/loss")[-1][1], rel=1e-6)
        assert 0 < value < 20
    assert snapshot(tiny_run) == before


def test_pictures_may_be_fewer_than_validations_and_logs_than_steps(tmp_path, curve):
    fit(
        tmp_path / "run", "--trainer.callbacks.every_n_validations", 2, "--trainer.log_every_n_steps", 5,
        "--save_every_n_epochs", 2, "--trainer.max_epochs", 3, "--trainer.enable_progress_bar", "true",
    )  # fmt: skip
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step-0000014.png"]
    # Lightning writes what was logged at step k with its (k + 1)-st batch
    assert [step for step, _ in curve(tmp_path / "run", "train/loss")] == [4, 9, 14, 19]
    assert read(tmp_path / "run" / "last.ckpt")["global_step"] == 3 * BATCHES, "the last epoch too"
