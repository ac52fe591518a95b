"""A run that is killed at any moment goes on from its newest whole checkpoint."""

import random
import sys
import time

import pytest

from commands.training.runs import keep_rows
from datamodules.experience.replay import read_state
from lightning_modules import DDPM
from tests import runs

OPTIONS = {
    "--data.batches_per_epoch": 1,  # a checkpoint after every step, so that many a kill meets one
    "--trainer.limit_val_batches": 0,
    "--trainer.max_epochs": 100_000,
    "--save_every_n_epochs": 1,
}


def train(log, folder, options, began):
    """`fit` in a process of its own; says when the training has begun."""
    sys.stderr = sys.stdout = log.open("w", buffering=1)
    DDPM.on_train_start = lambda self: began.set()
    sys.exit(runs.run("fit", folder, *words(options)))


def words(options):
    return [word for pair in options.items() for word in pair]


def written(file):
    """When a file was last replaced, in ns; None where there is none."""
    return file.stat().st_mtime_ns if file.exists() else None


def wait(process, moment, began, partial, moved):
    """Waits for a moment of a run: before it begins, as it begins, after a checkpoint, or while one is written."""
    reached = {
        "before": lambda: True,
        "begun": lambda: began.wait(0.02),
        "further": lambda: began.wait(0.02) and moved(),
        "writing": lambda: began.wait(0.02) and partial.exists(),
    }[moment]
    while not reached():
        assert process.is_alive(), "the run ended before it was killed"
        time.sleep(0 if moment == "writing" else 0.02)


MOMENTS = ("before", "begun", "further", "writing")


@pytest.mark.parametrize("kills", [len(MOMENTS), pytest.param(50, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_always_goes_on(kills, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    last, partial = folder / "last.ckpt", folder / ".last.ckpt.partial"
    chance, steps, unfinished = random.Random(0), [0], 0
    for i in range(kills):
        began = runs.PROCESSES.Event()
        resume = {"--ckpt_path": last} if last.exists() else {}
        process = runs.PROCESSES.Process(target=train, args=(log, folder, OPTIONS | resume, began))
        process.start()
        before = written(last)
        moment = MOMENTS[i % len(MOMENTS)]
        wait(process, moment, began, partial, lambda before=before: written(last) != before)
        time.sleep(0 if moment == "writing" else chance.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -9, log.read_text()
        unfinished += partial.exists()
        if last.exists():
            steps.append(runs.read(last)["global_step"])
    print(f"{kills} kills, {unfinished} of them while a checkpoint was written; {steps[-1]} steps")
    assert steps == sorted(steps)
    assert steps[-1] > 1, "it goes forward"
    end = {"--trainer.max_epochs": steps[-1] + 2, "--ckpt_path": last}
    assert runs.run("fit", folder, *words(OPTIONS | end)) == 0
    assert runs.read(last)["global_step"] == steps[-1] + 2


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_policy_goes_on_with_its_replay_buffer(kills, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    last = folder / "last.ckpt"
    options = {
        "--config": "sac-pendulum", "--trainer.default_root_dir": folder, "--trainer.enable_progress_bar": False,
        "--trainer.limit_val_batches": 0, "--model.compile": False, "--model.hidden": "[4]",
        "--data.warmup_env_steps": 20, "--data.replay_ratio": 1, "--data.rounds_per_batch": 20,
        "--data.save_replay": True, "--save_every_n_env_steps": 20,
    }  # fmt: skip
    moments, steps = random.Random(1), [0]
    for _ in range(kills):
        resume = {"--ckpt_path": last} if last.exists() else {}
        arguments = ["fit", *map(str, words(options | resume))]
        process = runs.PROCESSES.Process(target=runs.command, args=(log, arguments))
        process.start()
        before = written(last)
        while written(last) == before:  # until it has gone further
            assert process.is_alive(), log.read_text()
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.join()
        assert process.exitcode == -9, log.read_text()
        checkpoint = runs.read(last)
        steps.append(checkpoint["env_steps"])
        file = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["file"]
        rows = read_state(folder / f"{file}-0.pt")
        assert rows["size"] == steps[-1], "the buffer that its checkpoint names is whole"
    assert steps == sorted(set(steps)), "each goes forward"
    resume = {"--ckpt_path": last, "--data.total_env_steps": steps[-1] + 40}
    arguments = ["fit", *map(str, words(options | resume))]
    process = runs.PROCESSES.Process(target=runs.command, args=(log, arguments))
    process.start()
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert runs.read(last)["env_steps"] == steps[-1] + 40
    assert len(list(folder.glob("replay-*.pt"))) == 1, "older buffers are gone, those of kills too"


def test_the_log_of_a_killed_run_may_end_anywhere(tmp_path):
    class Kept:
        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step):
            self.rows.append((step, metrics))

    text = "epoch,step,train/loss\n0,0,0.5\n0,1,0.25\n1,2,0.125\n"
    whole = [(0, {"epoch": "0", "train/loss": "0.5"}), (1, {"epoch": "0", "train/loss": "0.25"})]
    for length in range(len(text) + 1):
        log, kept = tmp_path / "metrics.csv", Kept()
        log.write_text(text[:length])
        keep_rows(kept, log, steps=2)
        complete = text[:length].count("\n") - 1
        assert kept.rows[: max(complete, 0)] == whole[: max(complete, 0)]
    assert kept.rows == whole
