import math

import pytest
import torch

import checkpoints
from lightning_modules import ScoreMatching
from tests.modules import LEVELS, SHAPE, alone, batch, note_calls
from tests.runs import DDP, assert_same_run, differences, digits_batches, fit, read, run, run_in_ranks
from zoo.diffusion.likelihood import dequantise
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.parameterization import SIGMA_DATA
from zoo.diffusion.score import denoising_score_matching
from zoo.errors import UserError

T = 20
MODEL = ("--model", "ScoreMatching", "--model.channels", 8, "--model.num_timesteps", T, "--model.warmup_steps", 3)


def matching(**changes):
    return alone(ScoreMatching, **changes)


def images(size=6):
    return batch(1, size=size)[0]


@pytest.fixture
def losses(monkeypatch):
    return note_calls(monkeypatch, ImageDiffusion, "loss")


def test_training_data_fill_their_grey_levels_anew_in_every_step(losses):
    module, x0 = matching(), images(50)
    module.training_step((x0, None), 0)
    module.training_step((x0, None), 1)
    for call in losses:
        offset = (call.x0 - x0) * (LEVELS - 1) / 2  # in bins
        assert offset.abs().max() <= 0.5 + 1e-5
        # uniform, 4800 numbers of standard deviation 0.29: within four standard errors
        assert offset.mean().abs() < 0.017
        assert abs(offset.std() - 1 / math.sqrt(12)) < 0.01
        assert call.labels is None
    assert (losses[0].x0 != losses[1].x0).float().mean() > 0.99


@pytest.mark.parametrize("schedule", ["ve", "linear", "cosine"])
@pytest.mark.parametrize("parameterization", ["eps", "edm"])
def test_the_loss_is_score_matching_with_the_stated_weight(schedule, parameterization, losses):
    module = matching(schedule=schedule, parameterization=parameterization)
    module.training_step((images(), None), 0)
    (call,), model = losses, module.model
    weighted = denoising_score_matching(model.score, model.process, call.x0, call.t, call.noise)
    signal, sigma = model.process.signal_and_noise(call.t, 1)
    if parameterization == "edm":
        weighted = weighted * (1 + (sigma / signal / SIGMA_DATA) ** 2)
    # the score of a nearly noiseless image is a small difference of large float32 numbers, and the other way round
    torch.testing.assert_close(call.answer, weighted, rtol=2e-2, atol=1e-2)


def test_times_are_uniform_or_lognormal(losses):
    x0 = images(2000)
    matching(num_timesteps=4, schedule="linear").training_step((x0, None), 0)
    counts = torch.bincount(losses[0].t, minlength=5)  # binomial(2000, 1/4): within four standard deviations of 19
    assert counts[0] == 0
    assert all(420 < count < 580 for count in counts[1:])
    module = matching(num_timesteps=1000, sigma_range=(0.002, 80.0), times="lognormal")
    module.training_step((x0, None), 0)
    levels = module.model.process.noise_levels[losses[1].t].log()
    assert abs(levels.mean() + 1.2) < 4 * 1.2 / 2000**0.5
    assert abs(levels.std() - 1.2) < 4 * 1.2 / 4000**0.5


def test_validation_is_the_same_every_time(losses):
    module, x0 = matching(augmentation=1.0).eval(), images(T)
    for seed in (1, 2):
        torch.manual_seed(seed)
        module.validation_step((x0, None), 3)
    assert torch.equal(losses[0].answer, losses[1].answer)
    assert module.logged["val/loss"] == losses[0].answer.mean()
    assert sorted(losses[0].t.tolist()) == list(range(1, T + 1))
    assert 0 < (losses[0].x0 - x0).abs().max() <= 1 / (LEVELS - 1) + 1e-6, "dequantised, not moved"


def test_the_test_metric_counts_the_volume_of_a_bin():
    module, x0 = matching(likelihood_steps=5).eval(), images(3)
    with torch.inference_mode():
        module.test_step((x0, None), 2)
    first = module.logged["test/bits_per_dim"]
    module.test_step((x0, None), 2)
    assert module.logged["test/bits_per_dim"] == first
    source = torch.Generator().manual_seed(2)
    nats = module.model.log_likelihood(dequantise(x0, LEVELS, source), steps=5, generator=source)
    bits = -(nats / 96 + math.log(2 / 16)) / math.log(2)
    torch.testing.assert_close(first, bits.mean(), rtol=1e-5, atol=0)


def test_a_flat_density_over_the_grey_levels_costs_their_number():
    """A model that knew only the range of the data would pay log2(17) bits."""
    module = matching()
    module.model.log_likelihood = lambda x, levels, **_: torch.full((len(x),), -96 * math.log(levels))
    module.test_step((images(), None), 0)
    assert module.logged["test/bits_per_dim"] == pytest.approx(math.log2(17), rel=1e-6)


def test_prediction_draws_by_the_sampler_that_it_is_given():
    module, latents = matching(sampler="predictor-corrector", steps=4).eval(), torch.randn(5, *SHAPE)
    found = module.predict_step((latents, torch.arange(3, 8)), 0)
    expected = module.model.sample(
        5, sampler="predictor-corrector", steps=4, spacing="karras", noise=latents,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    assert torch.equal(found, expected)


def test_a_run_is_exported_loaded_and_drawn(tmp_path, command):
    options = (*MODEL, "--model.parameterization", "edm", "--model.times", "lognormal", "--trainer.max_epochs", 1)
    folder = fit(tmp_path / "run", *options)
    content = read(folder / "last.ckpt")
    assert content["arguments"]["sigma_range"] == [0.01, 50.0]
    assert content["arguments"]["schedule"] == "ve"
    assert command("export", folder / "last.ckpt", tmp_path / "model").status == 0
    assert checkpoints.verify(str(tmp_path / "model")) == 0
    answer = command("sample", tmp_path / "model", "--sampler", "heun", "--spacing", "karras", "--steps", 5,
                     "--num-samples", 3, "--output", tmp_path / "a.png")  # fmt: skip
    assert answer.status == 0, answer.err


def test_the_test_verb_measures_bits(tmp_path, capsys):
    folder = fit(tmp_path / "run", *MODEL, "--trainer.max_epochs", 1)
    options = (*MODEL, "--model.likelihood_steps", 3, "--trainer.limit_test_batches", 2)
    assert run("test", folder, *options, "--ckpt_path", folder / "last.ckpt") == 0
    assert "test/bits_per_dim" in capsys.readouterr().out


@pytest.mark.parametrize("times", ["uniform", "lognormal"])
def test_a_resumed_run_is_bit_equal(times, tmp_path):
    options = (*MODEL, "--model.times", times)
    straight = fit(tmp_path / "straight", *options)
    half = fit(tmp_path / "half", *options, "--trainer.max_epochs", 1)
    fit(half, *options, "--ckpt_path", half / "last.ckpt")
    assert_same_run(straight / "last.ckpt", half / "last.ckpt")


def test_two_processes_fill_the_grey_levels_of_their_own_rows_and_end_with_equal_weights(tmp_path):
    first, second = run_in_ranks(tmp_path, ["fit", tmp_path / "run", *MODEL, *DDP, "--trainer.max_epochs", 1])
    assert differences(first["weights"], second["weights"]) == []
    assert len(first["images"]) == 7
    for i, both in enumerate(digits_batches(7, size=12)):
        images, noise = (torch.cat([rank[name][i] for rank in (first, second)]) for name in ("images", "noise"))
        offset = (images - both) * 8  # in bins: the halves of what one process would read, dequantised
        assert offset.abs().max() <= 0.5 + 1e-5
        for drawn in (offset, noise):
            assert (drawn[:6] != drawn[6:]).float().mean() > 0.99


def test_bfloat16_learns_in_float32(losses, tmp_path):
    folder = fit(tmp_path / "run", *MODEL, "--trainer.precision", "bf16-mixed", "--trainer.max_epochs", 1)
    assert {call.answer.dtype for call in losses} == {torch.float32}
    assert all(call.answer.isfinite().all() for call in losses)
    assert {weight.dtype for weight in read(folder / "last.ckpt")["state_dict"].values()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parameterization": "v"}, "model.parameterization must be one of eps, edm, got 'v'"),
        ({"times": "often"}, "model.times must be one of uniform, lognormal, got 'often'"),
        ({"sampler": "euler"}, "model.sampler must be one of ddim, ddpm"),
        ({"likelihood_steps": 0}, "model.likelihood_steps must be at least 1, got 0"),
        ({"warmup_steps": -1}, "model.warmup_steps must be at least 0"),
    ],
)
def test_mistakes_are_told_when_it_is_built(options, said):
    with pytest.raises(UserError, match=said):
        matching(**options)
