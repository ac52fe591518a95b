import re
import shlex
import signal
import sys

import pytest
import torch
import yaml

from commands.main import main
from tests.runs import (
    TINY,
    assert_same_run,
    fit,
    fit_with_signal,
    read,
    run,
)

BATCHES, EPOCHS = 7, 2  # of tiny.yaml


def test_a_resumed_run_equals_one_without_a_break(tiny_run, resumable, rows):
    before = read(resumable / "last.ckpt")
    assert before["global_step"] == BATCHES
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fit(resumable, "--ckpt_path", "last")
    assert_same_run(tiny_run / "last.ckpt", resumable / "last.ckpt")
    # the log goes on where it stood
    assert rows(resumable) == rows(tiny_run)
    written = yaml.safe_load((resumable / "config.yaml").read_text())
    assert written["ckpt_path"] is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_checkpoint_of_before_goes_on_and_is_measured(resumable, tiny_run, capsys):
    """Version 0.4 wrote neither algorithm, paper, data nor protocol, and counted batches alone."""
    content = read(resumable / "last.ckpt")
    for key in ("algorithm", "paper", "data", "protocol"):
        del content[key]
    content["callbacks"] = {key: value for key, value in content["callbacks"].items() if "Checkpoint" in key}
    content["Digits"] = {"drawn": content["Digits"]["drawn"]}
    torch.save(content, resumable / "last.ckpt")
    for verb in ("validate", "test"):
        assert run(verb, resumable, "--ckpt_path", "last", "--trainer.limit_test_batches", 1) == 0
    assert "test/bits_per_dim" in capsys.readouterr().out
    fit(resumable, "--ckpt_path", "last")
    assert_same_run(tiny_run / "last.ckpt", resumable / "last.ckpt")


def test_a_resumed_run_follows_its_config(resumable, curve, capsys):
    options = ("--model.learning_rate", 1e-5, "--model.weight_decay", 0.5, "--data.batch_size", 3)
    fit(resumable, "--ckpt_path", "last", *options)
    told = capsys.readouterr().err
    assert "resuming with data.batch_size 3 (it was 6), model.learning_rate 1e-05 (it was 0.003)" in told
    content = read(resumable / "last.ckpt")
    (group,) = content["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (1e-5, 0.5)
    assert content["hyper_parameters"]["learning_rate"] == 1e-5
    written = yaml.safe_load((resumable / "config.yaml").read_text())
    assert written["model"]["init_args"]["learning_rate"] == 1e-5
    # the epoch is whole, whatever its batches are
    assert [step for step, _ in curve(resumable, "train/loss")] == list(range(EPOCHS * BATCHES))
    assert content["Digits"]["drawn"] * 3 == 2 * BATCHES * 6 - BATCHES * 3


def test_a_run_that_is_done_is_no_success(resumable, command):
    answer = command("fit", "--config", TINY, "--trainer.default_root_dir", resumable, "--ckpt_path", "last",
                     "--trainer.max_epochs", 1)  # fmt: skip
    assert answer.status == 2
    assert answer.err.splitlines()[-1] == (
        "error: nothing was trained: the run has already reached its end, step 7; "
        "raise trainer.max_epochs or trainer.max_steps"
    )


def test_a_run_killed_after_its_first_epoch_goes_on_as_if_it_had_not_been(tiny_run, tmp_path, curve):
    folder = tmp_path / "killed"
    status, _ = fit_with_signal(folder, step=BATCHES + 3, number=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert read(folder / "last.ckpt")["global_step"] == BATCHES
    fit(folder, "--ckpt_path", folder / "last.ckpt")
    assert_same_run(tiny_run / "last.ckpt", folder / "last.ckpt")
    assert curve(folder, "val/loss") == curve(tiny_run, "val/loss")


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (BATCHES + 3, signal.SIGINT),
        (BATCHES - 1, signal.SIGTERM),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_save_the_running_step_and_say_how_to_go_on(tiny_run, tmp_path, step, number, curve, rows):
    folder = tmp_path / "a run"
    status, log = fit_with_signal(folder, step=step, number=number)
    assert status == 130
    assert "Traceback" not in log
    assert read(folder / "interrupted.ckpt")["global_step"] == step + 1
    assert (folder / "curves.png").is_file()
    told = re.search(r"^interrupted; to resume: python cli.py (.+)$", log, re.M)[1]
    words = shlex.split(told)
    assert words[-2:] == ["--ckpt_path", str(folder / "interrupted.ckpt")]
    before = sys.argv
    try:
        assert main(words) == 0
    finally:
        sys.argv = before
    assert_same_run(tiny_run / "last.ckpt", folder / "last.ckpt")
    # the log goes on where it stood, but for the step that was running: Lightning logs a step after its last hook
    whole = [row for row in rows(tiny_run) if row["val/loss"] or int(row["step"]) not in (step, BATCHES - 1)]
    assert [row for row in rows(folder) if row in whole] == whole
    assert curve(folder, "val/loss") == curve(tiny_run, "val/loss")
    assert not (folder / "interrupted.ckpt").exists()
