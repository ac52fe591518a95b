"""Pictures that explain: each kind is drawn from a tiny model, and its numbers add up."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoints
import commands.drawing.sweeps
from datamodules import Digits
from tests.conftest import save_diffusion
from zoo.pictures import image_grid

SMALL = {"image_shape": [1, 8, 8], "num_timesteps": 20, "channel_multipliers": [1], "attention_levels": []}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("figure") / "plain", **SMALL)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("figure") / "guided", num_classes=10, null_label=True, **SMALL)


@pytest.fixture
def few(monkeypatch):
    """Sixty images in each split: enough to see that what untrained models draw is nothing like them."""
    monkeypatch.setattr(Digits, "images", lambda self, split, images=Digits.images: images(self, split)[:60])
    monkeypatch.setattr(Digits, "labels", lambda self, split, labels=Digits.labels: labels(self, split)[:60])


def size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize(
    ("kind", "columns", "rows"),
    [("denoising", 10, 8), ("interpolation", 9, 6), ("inversion", 10, 2), ("completion", 8, 5)],
)
@pytest.mark.parametrize("name", ["plain", "guided"])
def test_grids(command, request, tmp_path, kind, columns, rows, name):
    path = tmp_path / "figure.png"
    assert command("figure", kind, request.getfixturevalue(name), "--output", path).status == 0
    width, height = size(path)
    assert columns * 49 < width < columns * 49 + 120, "8x8 images, 6 screen pixels each, one pixel between, and names"
    assert rows * 49 < height < rows * 49 + 100


def test_an_autoregressive_model_continues_upper_halves(command, tmp_path):
    path = tmp_path / "figure.png"
    assert command("figure", "completion", "fvsbn-digits", "--output", path).status == 0
    width, height = size(path)
    assert 8 * 49 < width < 8 * 49 + 120
    assert 5 * 49 < height < 5 * 49 + 100


def test_a_traversal_moves_the_latents_that_carry_most(command, tmp_path):
    answer = command("figure", "traversal", "vae-digits", "--output", tmp_path / "a.png", "--json")
    assert answer.status == 0, answer.err
    nats = [point["kl_nats"] for point in json.loads(answer.out)["points"]]
    assert len(nats) == 8
    assert nats == sorted(nats, reverse=True)
    assert nats[0] > 0.5
    width, height = size(tmp_path / "a.png")
    assert 9 * 49 < width < 9 * 49 + 250
    assert 8 * 49 < height < 8 * 49 + 100


def test_inversion_says_how_far_off_it_is(command, plain, tmp_path):
    answer = command("figure", "inversion", plain, "--output", tmp_path / "a.png", "--json")
    (point,) = json.loads(answer.out)["points"]  # a model of 20 steps can be inverted in 10 only
    assert point["steps"] == 10
    assert point["mean_squared_error"] > 0


def test_a_denoising_film_starts_at_noise_and_ends_at_the_samples(command, guided, tmp_path):
    assert command("figure", "flow", guided, "--seed", 3, "--output", tmp_path / "a.gif").status == 0
    model = checkpoints.load(str(guided))
    labels = model.labels_in_turn(torch.arange(24))
    steps = min(28, model.process.num_timesteps)
    samples = model.sample(24, labels=labels, generator=torch.Generator().manual_seed(3), sampler="ddim", steps=steps)
    with Image.open(tmp_path / "a.gif") as film:
        film.seek(film.n_frames - 1)
        last = np.asarray(film.convert("L"), dtype=float)
    expected = image_grid(samples, 6, 7)[..., 0].astype(float)
    # eight shades are 36 apart, so that a pixel is at most half of that off, and a little by the palette
    assert np.abs(last - expected).max() < 20


def test_the_steps_sweep_counts_evaluations(command, plain, tmp_path, monkeypatch, few):
    monkeypatch.setattr(commands.drawing.sweeps, "STEPS", (2, 20, 1000))
    answer = command("figure", "steps", plain, "--output", tmp_path / "a.png", "--draws", 1, "--json")
    points = json.loads(answer.out)["points"]
    assert {(point["sampler"], point["steps"]) for point in points} == {
        (sampler, steps) for sampler in commands.drawing.sweeps.LINES for steps in (2, 20)
    }
    for point in points:
        assert point["network_evaluations"] == (
            2 * point["steps"] - 1 if point["sampler"] == "heun" else point["steps"]
        )
        assert point["fid_ratio"] > 2, "random weights draw nothing like digits"
    assert size(tmp_path / "a.png") == (840, 540)


def test_the_guidance_sweep_needs_a_model_that_can_be_guided(command, plain, guided, tmp_path, monkeypatch, few):
    monkeypatch.setattr(commands.drawing.sweeps, "SWEPT", (0.0, 2.0))
    monkeypatch.setattr("commands.measures.common.DRAWS", 2)
    options = ("--output", tmp_path / "a.png", "--draws", 1, "--json")
    answer = command("figure", "guidance", plain, *options)
    assert (answer.status, answer.out) == (2, "")
    assert "has no figure 'guidance'; it has steps, denoising, interpolation, inversion, completion, flow" in answer.err
    assert not (tmp_path / "a.png").exists()
    short = save_diffusion(tmp_path / "short", **SMALL | {"num_timesteps": 50}, num_classes=10, null_label=True)
    points = json.loads(command("figure", "guidance", short, *options).out)["points"]
    assert [point["guidance_scale"] for point in points] == [0, 2]
    assert all(0 <= point[name] <= 1 for point in points for name in ("asked_label", "precision", "recall"))


def test_mistakes(command, tmp_path):
    for arguments, message in (
        (("steps", "classifier-digits"), "'classifier-digits' is a classifier: use evaluate"),
        (("flow", "td3-pendulum"), "'td3-pendulum' is a policy: use rollout or evaluate"),
        (("steps", "ddpm-digits", "--output", "a.gif"), "must end in .png"),
        (("steps", "ddpm-digits", "--draws", "0"), "must be at least 1"),
        (("colours", "ddpm-digits"), "invalid choice: 'colours'"),
    ):
        answer = command("figure", *arguments)
        assert answer.status == 2
        assert message in answer.err
        assert answer.err.count("\n") == 1
    needy = save_diffusion(tmp_path / "needy", **SMALL, num_classes=4)
    assert command("figure", "denoising", needy, "--output", tmp_path / "a.png").status == 0
    other = save_diffusion(tmp_path / "other")
    assert "has the shape" in command("figure", "inversion", other).err
