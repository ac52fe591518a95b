import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import checkpoints
from commands.main import main
from datamodules import Digits, Latents
from lightning_modules import DDIM
from tests.conftest import save_diffusion
from tests.runs import fit
from zoo.pictures import image_grid

SHAPE = (3, 8, 4)  # of the tiny models


def predict(command, folder, model, *options, number=9, shape=SHAPE):
    """The images that `predict` writes for `number` latents of seed 4."""
    answer = command(
        "predict", "--model", "DDIM", "--model.denoiser", model, "--data", "Latents", "--data.seed", 4,
        "--data.num_samples", number, "--data.image_shape", list(shape), "--trainer.default_root_dir", folder,
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *options,
    )  # fmt: skip
    assert answer.status == 0, answer
    assert f"wrote {folder / 'predictions.safetensors'}" in answer.out
    return load_file(folder / "predictions.safetensors")["predictions"]


def latents(number=9):
    return torch.cat([batch for batch, _ in Latents(SHAPE, number, seed=4).predict_dataloader()])


@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_predict_writes_what_the_model_samples_from_the_same_latents(spacing, eta, tiny, tmp_path, command):
    written = predict(command, tmp_path, tiny, "--model.steps", 4, "--model.eta", eta, "--model.spacing", spacing)
    model, generator = checkpoints.load(str(tiny)), torch.Generator().manual_seed(0)
    expected = model.sample(9, sampler="ddim", steps=4, eta=eta, spacing=spacing, noise=latents(), generator=generator)
    assert torch.equal(written, expected)
    with Image.open(tmp_path / "predictions.png") as picture:
        assert np.array_equal(np.asarray(picture), image_grid(expected))
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.safetensors", "predictions.png"}


def test_without_noise_the_batch_size_plays_no_part(tiny, tmp_path, command):
    whole = predict(command, tmp_path / "a", tiny, "--model.steps", 4)
    parts = predict(command, tmp_path / "b", tiny, "--model.steps", 4, "--data.batch_size", 2)
    # other neighbours in a batch, so other sums in the last bits
    assert torch.allclose(whole, parts, atol=1e-5)
    few = predict(command, tmp_path / "c", tiny, "--model.steps", 4, number=5)
    assert torch.allclose(whole[:5], few, atol=1e-5)


def test_each_batch_has_its_own_noise(tiny):
    # the same latents in every row: only the noise can tell the batches apart
    module, rows = DDIM(str(tiny), steps=4, eta=1.0), latents(1).expand(6, -1, -1, -1)
    first, second = (
        module.predict_step((rows[:3], torch.arange(3)), 0),
        module.predict_step((rows[3:], torch.arange(3, 6)), 1),
    )
    assert not torch.allclose(first, second)
    assert torch.equal(first, module.predict_step((rows[:3], torch.arange(3)), 0))


def test_labels_are_drawn_in_turn(conditional, tmp_path, command):
    written = predict(command, tmp_path, conditional, "--model.steps", 3, "--model.labels", [4, 0, 2], number=7)
    model, expected = checkpoints.load(str(conditional)), torch.tensor([4, 0, 2, 4, 0, 2, 4])
    assert torch.equal(written, model.sample(7, sampler="ddim", steps=3, noise=latents(7), labels=expected))
    assert not torch.equal(written, model.sample(7, sampler="ddim", steps=3, noise=latents(7), labels=expected.flip(0)))


def test_labels_follow_the_latents_across_batches(conditional):
    module = DDIM(str(conditional), steps=3, labels=[1, 3])
    rows = latents(5)
    whole = module.predict_step((rows, torch.arange(5)), 0)
    share = module.predict_step((rows[1::2], torch.arange(1, 5, 2)), 0)  # of the second of two processes
    assert torch.allclose(share, whole[1::2], atol=1e-5)


def test_guidance_and_several_columns_reach_the_model(free, named):
    rows, generator = latents(5), torch.Generator().manual_seed(0)
    module = DDIM(str(free), steps=3, spacing="karras", labels=[1, 3], guidance_scale=4.0)
    options = {"sampler": "ddim", "steps": 3, "noise": rows, "generator": generator, "guidance_scale": 4.0}
    wanted = torch.tensor([1, 3, 1, 3, 1])
    expected = checkpoints.load(str(free)).sample(5, labels=wanted, spacing="karras", **options)
    assert torch.equal(module.predict_step((rows, torch.arange(5)), 0), expected)
    module = DDIM(str(named), steps=3, labels=[[2, 0], [3, 6], [1, 5]], guidance_scale=4.0)
    wanted = torch.tensor([[3, 6], [1, 5], [2, 0], [3, 6], [1, 5]])
    expected = checkpoints.load(str(named)).sample(5, labels=wanted, **options)
    assert torch.equal(module.predict_step((rows, torch.arange(1, 6)), 0), expected)


def test_columns_and_guidance_are_given_on_the_command_line(named, tmp_path, command):
    options = ("--model.steps", 3, "--model.labels", "[[2, 0], [3, 6]]", "--model.guidance_scale", 2.5)
    written = predict(command, tmp_path, named, *options, number=2)
    wanted = torch.tensor([[2, 0], [3, 6]])
    options = {"steps": 3, "noise": latents(2), "guidance_scale": 2.5}
    expected = checkpoints.load(str(named)).sample(2, sampler="ddim", labels=wanted, **options)
    assert torch.equal(written, expected)


def test_a_conditional_model_is_trained_and_sampled(tmp_path, command):
    folder = fit(tmp_path / "run", "--model.class_conditional", "true", "--trainer.max_epochs", 1)
    assert [path.name for path in (folder / "samples").iterdir()] == ["step-0000007.png"]
    assert main(["export", str(folder / "last.ckpt"), str(tmp_path / "model")]) == 0
    assert checkpoints.load(str(tmp_path / "model")).labels == (10,)
    options = ("--model.steps", 3, "--model.labels", [7])
    written = predict(command, tmp_path / "out", tmp_path / "model", *options, number=2, shape=(1, 8, 8))
    assert written.shape == (2, 1, 8, 8)
    assert torch.isfinite(written).all()


def test_the_round_trip_comes_closer_with_more_steps(tmp_path):
    smooth = save_diffusion(tmp_path / "model", image_shape=[1, 8, 8], num_timesteps=200)
    errors = []
    for steps in (5, 20, 80):
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            limit_test_batches=1, enable_checkpointing=False,
        )  # fmt: skip
        (metrics,) = trainer.test(DDIM(str(smooth), steps=steps), datamodule=Digits(batch_size=6), verbose=False)
        errors.append(metrics["test/round_trip_mse"])
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model.denoiser", "ddpm-digit"), "unknown model 'ddpm-digit'"),
        (("--model.denoiser", "classifier-digits"), "model.denoiser must be a diffusion model, got 'class"),
        (("--model.steps", 21), "steps must be between 1 and the model's 20, got 21"),
        (("--model.steps", 0), "steps must be between 1 and the model's 20, got 0"),
        (("--model.spacing", "even"), "spacing must be one of"),
        (("--model.eta", 1.5), "eta must be between 0 and 1, got 1.5"),
        (("--model.labels", "[3]"), "labels must not be given: this model is unconditional"),
        (("--model.labels", "[[1, 2], [3]]"), "model.labels must be numbers, or lists of equally many numbers, got"),
        (("--model.guidance_scale", 2), "guidance_scale has nothing to guide: this model has no null label"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(options, said, tiny, tmp_path, refused):
    base = ("--model", "DDIM", "--model.denoiser", tiny, "--model.steps", 4, "--data", "Latents")
    shape = ("--data.image_shape", list(SHAPE), "--trainer.default_root_dir", tmp_path / "run")
    quiet = ("--trainer.enable_progress_bar", "false")
    assert said in refused("predict", *base, *shape, *quiet, *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("labels", [None, [5], [-1, 2]])
def test_labels_of_a_conditional_model_are_looked_at(labels, conditional, tmp_path, refused):
    base = ("--model", "DDIM", "--model.denoiser", conditional, "--model.steps", 4, "--data", "Latents")
    shape = ("--data.image_shape", list(SHAPE), "--trainer.default_root_dir", tmp_path / "run")
    given = () if labels is None else ("--model.labels", labels)
    assert "labels must" in refused("predict", *base, *shape, "--trainer.enable_progress_bar", "false", *given)
    assert not (tmp_path / "run").exists()
