import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from commands.main import main
from tests.runs import (
    DDP,
    TINY,
    assert_same_run,
    digits_batches,
    read,
    run,
    run_in_ranks,
)

ROOT = Path(__file__).resolve().parents[3]
BATCHES, EPOCHS = 7, 2  # of tiny.yaml


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
def ranks(tmp_path_factory, tiny_run):
    """(folder, what each rank saw): two processes train one epoch, go on with a second, and predict."""
    folder = tmp_path_factory.mktemp("ddp")
    model = folder / "model"
    assert main(["export", str(tiny_run / "last.ckpt"), str(model)]) == 0
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


def test_two_processes_started_by_lightning_do_the_same_and_a_break_changes_nothing(ranks, launched, curve):
    folder, _ = ranks
    assert_same_run(folder / "run" / "last.ckpt", launched / "last.ckpt")
    states = read(launched / "last.ckpt")["random_states"]["cpu"]
    assert len(states) == 2
    assert not torch.equal(*states)
    assert curve(launched, "val/loss") == curve(folder / "run", "val/loss")


def test_two_processes_stop_and_save_after_the_same_step(ranks, tmp_path):
    """Although only one of them gets the signal."""
    fit = ["fit", tmp_path / "run", *DDP]
    resumed = [*fit, "--ckpt_path", tmp_path / "run" / "interrupted.ckpt"]
    first, _ = run_in_ranks(tmp_path, fit, resumed, statuses=(130, 0), signal_after=2)
    assert len(first["images"]) == EPOCHS * BATCHES, "no step is done twice"
    assert_same_run(ranks[0] / "run" / "last.ckpt", tmp_path / "run" / "last.ckpt")


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
