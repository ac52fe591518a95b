"""What is known of an image stays so under every sampler; for Gaussian data the rest is close to its exact law."""

import itertools
import math
import re

import pytest
import torch

from tests.zoo.diffusion.test_model import SHAPE, T, perturbed, seeded
from tests.zoo.diffusion.test_model_guidance import LABELS, Classifier
from zoo.diffusion import inverse
from zoo.diffusion.guidance import Known
from zoo.diffusion.inverse import averages, consistent, inpainting, repeated
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.schedules import times_for
from zoo.diffusion.solvers import SAMPLERS
from zoo.errors import UserError
from zoo.random import per_row

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
HALF = torch.arange(SHAPE[1])[:, None].expand(SHAPE[1:]) >= 3  # the lower five rows are drawn


@pytest.fixture(scope="module")
def model():
    return perturbed()


@pytest.fixture
def image():
    return torch.rand(SHAPE, generator=seeded(5)) * 2 - 1


# projections


def cells(x0):
    """Means over channels and blocks of 2 x 3 pixels."""
    return x0.view(-1, 1, 3, 4, 2, 2, 3).mean((2, 4, 6))


def test_averages_are_kept_and_nothing_else_changes_within_the_range():
    x0 = 0.2 * torch.randn(5, *SHAPE, generator=seeded()).double()
    means = 0.3 * torch.randn(5, 1, 4, 2, generator=seeded(1)).double().clamp(-1, 1)
    fitted = averages(means, SHAPE).fit(x0)
    assert fitted.abs().max() < 1, "no contrast was lost"
    torch.testing.assert_close(cells(fitted), means)
    repeat = (means - cells(x0)).repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(fitted, x0 + repeat)  # x_0 + A^+ (y - A x_0)
    torch.testing.assert_close(averages(means, SHAPE).fit(fitted), fitted)  # a projection


def test_averages_lose_contrast_rather_than_leave_the_range():
    x0 = torch.randn(5, *SHAPE, generator=seeded()).double().clamp(-1, 1)
    means = torch.tensor([-1.0, -0.95, 0.0, 0.9, 1.0]).view(5, 1, 1, 1).expand(5, 1, 4, 2).double()
    fitted = averages(means, SHAPE).fit(x0)
    assert fitted.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(cells(fitted), means)
    assert torch.equal(fitted[0], torch.full(SHAPE, -1).double()), "white and black have no colour"
    rest, before = fitted - means.mean(), x0 - x0.mean()
    assert (rest * before).sum() > 0


@pytest.mark.parametrize("shape", [(1, 8, 6), (3, 4, 3), (3, 1, 1), (3, 8, 6)])
def test_averages_of_channels_or_of_blocks(shape):
    means = torch.rand(shape, generator=seeded()).double() - 0.5
    fitted = averages(means, SHAPE).fit(torch.zeros(2, *SHAPE).double())
    expected = means.repeat_interleave(8 // shape[1], 1).repeat_interleave(6 // shape[2], 2).expand(SHAPE)
    assert torch.equal(fitted, expected.expand(2, *SHAPE))


# models


@every_sampler
@pytest.mark.parametrize("repeats", [1, 3])
def test_known_pixels_are_kept_bit_by_bit(model, sampler, repeats, image):
    options = {"known": inpainting(image, HALF), "repeats": repeats, "sampler": sampler, "steps": 5}
    images = model.sample(5, generator=seeded(), **options)
    assert torch.equal(images[:, :, ~HALF], image[:, ~HALF].expand(5, -1, -1))
    assert len(images.unique(dim=0)) == 5
    assert images.abs().max() <= 1
    assert torch.equal(images, model.sample(5, generator=seeded(), **options))


@every_sampler
def test_a_mask_of_nothing_and_a_mask_of_all(model, sampler, image):
    def draw(**options):
        return model.sample(5, sampler=sampler, steps=5, generator=seeded(), **options)

    everything, nothing = torch.ones(SHAPE[1:]), torch.zeros(SHAPE[1:])
    assert torch.equal(draw(known=inpainting(image, everything), repeats=1), draw())
    assert torch.equal(draw(known=inpainting(image, nothing)), image.expand(5, *SHAPE))


@pytest.mark.parametrize("schedule", ["cosine", "ve"])
def test_guidance_and_what_is_known_add_up(schedule, image):
    free = perturbed(schedule=schedule, parameterization="edm", num_classes=4, null_label=True)
    options = {"steps": 5, "labels": LABELS, "guidance_scale": 3.0, "generator": seeded()}
    plain = free.sample(5, **options)
    filled = free.sample(5, **options | {"generator": seeded()}, known=inpainting(image, HALF))
    other = free.sample(5, **options | {"generator": seeded(), "labels": 3 - LABELS}, known=inpainting(image, HALF))
    assert torch.equal(filled[:, :, ~HALF], image[:, ~HALF].expand(5, -1, -1))
    for images in (plain, other):
        assert not torch.isclose(filled[:, :, HALF], images[:, :, HALF]).all(dim=2).any()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])  # guided by the mean of a step, and through x_0
def test_a_classifier_and_what_is_known_add_up(model, sampler, image):
    def draw(scale):
        options = {"labels": LABELS, "classifier": Classifier(), "guidance_scale": scale, "sampler": sampler}
        return model.sample(5, steps=5, known=inpainting(image, HALF), generator=seeded(), **options)

    assert torch.equal(draw(3.0)[:, :, ~HALF], image[:, ~HALF].expand(5, -1, -1))
    assert not torch.isclose(draw(3.0), draw(0.0)).all()


def test_each_sample_its_own_image(model):
    images = torch.rand(5, *SHAPE, generator=seeded()) * 2 - 1
    drawn = model.sample(5, steps=5, known=inpainting(images, HALF), generator=seeded())
    assert torch.equal(drawn[:, :, ~HALF], images[:, :, ~HALF])
    grey = model.sample(5, steps=5, known=averages(images.mean(1, keepdim=True), SHAPE), generator=seeded())
    torch.testing.assert_close(grey.mean(1), images.mean(1), rtol=0, atol=1e-6)  # float32
    assert not torch.isclose(grey, images).all(dim=1).any()


def test_a_repeat_of_one_is_the_sampler_itself():
    assert repeated(SAMPLERS["heun"], 1) is SAMPLERS["heun"]


@pytest.mark.parametrize("steps", [1, 5, T])
def test_a_walk_is_repeated_over_each_tenth(model, steps, image):
    reached = []
    known = inpainting(image, HALF)
    model.sample(5, steps=steps, known=known, repeats=3, on_step=lambda t, *_: reached.append(t))
    times = times_for(model.process, steps)[1:]
    assert reached == [t for t in times for _ in range(3)], "a tenth of these is one step"
    assert inverse.STRETCHES == 10


def test_stretches_of_several_steps():
    walked = []

    def solve(denoise, process, x, times, *, generator, on_step):
        walked.append(times)
        return x

    process, times = NoiseProcess("cosine", 100), [*range(47, -1, -2), 0]
    repeated(solve, 2)(None, process, torch.zeros(2, 3), times)
    assert [len(stretch) for stretch in walked[::2]] == [3] * 12 + [1 + len(times[1:]) % 2] * (len(times[1:]) % 2)
    assert walked[::2] == walked[1::2]
    assert [walked[0][0], *itertools.chain(*(stretch[1:] for stretch in walked[::2]))] == times


# editing


@every_sampler
def test_editing_starts_from_the_image_with_noise(model, sampler, image):
    noise = torch.randn(5, *SHAPE, generator=seeded())
    options = {"sampler": sampler, "steps": T, "generator": seeded()}
    edited = model.sample(5, edit=(image, 0.5), noise=noise, **options)
    signal, sigma = model.process.at(T // 2)
    solve, times = SAMPLERS[sampler], list(range(T // 2, -1, -1))
    options = {"variance": "large"} if sampler == "ddpm" else {}
    with torch.inference_mode():
        expected = solve(
            model.denoiser(), model.process, signal * image + sigma * noise, times,
            generator=per_row(seeded()), **options,
        )  # fmt: skip
    assert torch.equal(edited, expected)


def test_the_strength_decides_how_much_is_kept():
    """With the exact denoiser of Gaussian pixels, whose flow keeps the standardised value."""
    process, std, image = NoiseProcess("cosine", 1000), 0.4, torch.full((4000, 1, 1, 1), 0.8).double()

    def denoise(x, t):
        signal, sigma = process.signal_and_noise(t, 4, torch.float64)
        return signal * std**2 / (signal**2 * std**2 + sigma**2) * x

    noise = torch.randn(image.shape, generator=seeded()).double()
    for strength in (0.05, 0.3, 0.6, 1.0):
        times, x = inverse.start(process, times_for(process, 1000), noise, (image, strength))
        signal, sigma = process.at(round(1000 * strength))
        assert times == [*range(round(1000 * strength), -1, -1)]
        images = SAMPLERS["ddim"](denoise, process, x, times)
        scale = std / math.sqrt(signal**2 * std**2 + sigma**2)  # of the flow from there to the data
        # 4000 samples: a mean within four of its standard errors, and some 1 % for 1000 steps of first order
        torch.testing.assert_close(images.mean().item(), scale * signal * 0.8, rtol=0.01, atol=4 * std / 4000**0.5)
        torch.testing.assert_close(images.std().item(), scale * sigma, rtol=0.05, atol=0)


def test_times_of_an_edit(model):
    noise, image = torch.randn(5, *SHAPE, generator=seeded()), torch.zeros(SHAPE)

    def times(strength, whole=(12, 8, 4, 0)):
        return inverse.start(model.process, list(whole), noise, (image, strength))[0]

    assert times(1.0) == [12, 8, 4, 0]
    assert times(0.75) == [9, 8, 4, 0]
    assert times(2 / 3) == [8, 4, 0]
    assert times(0.001) == [1, 0]
    assert times(1.0, (10, 4, 0)) == [10, 4, 0], "as Karras' times, which begin below T"


def test_an_edit_of_what_is_known(model, image):
    drawn = model.sample(5, steps=5, edit=(image, 0.3), known=inpainting(image, HALF), generator=seeded())
    assert torch.equal(drawn[:, :, ~HALF], image[:, ~HALF].expand(5, -1, -1))
    fresh = model.sample(5, steps=5, known=inpainting(image, HALF), generator=seeded())
    assert (drawn - image).square().mean() < (fresh - image).square().mean()


# closed forms


def two_pixels(correlation: float):
    """Two pixels N(0, 0.25), the first of which is known: 0.5. Their denoiser, and the exact mean and spread."""
    process, std = NoiseProcess("cosine", 1000), 0.5
    covariance = std**2 * torch.tensor([[1, correlation], [correlation, 1]]).double()
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x, t):
        signal, sigma = process.at(int(t[0]))
        return x @ vectors * (signal * values / (signal**2 * values + sigma**2)) @ vectors.T

    known = Known((2,), lambda x0: torch.stack([torch.full_like(x0[:, 0], 0.5), x0[:, 1]], dim=1))
    return process, consistent(denoise, known), 0.5 * correlation, std * math.sqrt(1 - correlation**2)


def errors(name: str, repeats: int, correlation: float):
    """How far mean and standard deviation are from the exact ones, both over the exact standard deviation."""
    process, denoise, mean, std = two_pixels(correlation)
    source = seeded()
    x = torch.randn(4000, 2, generator=source).double()
    solve = repeated(SAMPLERS[name], repeats)
    drawn = solve(denoise, process, x, times_for(process, 50), generator=source)
    assert (drawn[:, 0] == 0.5).all()
    return abs(drawn[:, 1].mean().item() - mean) / std, drawn[:, 1].std().item() / std


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++2m-sde"])
def test_of_independent_pixels_the_unknown_one_is_drawn_freely(name):
    miss, ratio = errors(name, 1, 0.0)
    assert miss < 4 / 4000**0.5  # four standard errors
    assert abs(ratio - 1) < 0.06  # the same, 0.045, and the error of 50 steps


@pytest.mark.parametrize(
    ("name", "misses", "ratios"),
    [("ddim", (1.39, 0.26, 0.13), (1.95, 1.09, 1.07)), ("dpm++2m-sde", (0.73, 0.13, 0.09), (1.51, 1.18, 1.15))],
)
def test_repeats_bring_dependent_pixels_to_their_exact_law(name, misses, ratios):
    """The table of `inverse`: within five standard errors of 4000 samples, for other machines' random numbers."""
    for repeats, miss, ratio in zip((1, 5, 20), misses, ratios, strict=True):
        found = errors(name, repeats, 0.95)
        error = ratio / 4000**0.5
        assert abs(found[0] - miss) < 5 * error
        assert abs(found[1] - ratio) < 5 * error


# mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i: inpainting(i, torch.ones(8, 8)), "mask must have the size 8 x 6 of the image, got 8 x 8"),
        (lambda m, i: inpainting(i, torch.ones(3, 8, 6)), "mask must have the size 8 x 6 of the image, got 3 x 8 x 6"),
        (lambda m, i: inpainting(i, torch.full((8, 6), 0.5)), "mask must hold only 0 (keep) and 1 (draw)"),
        (lambda m, i: inpainting(i + 2, torch.ones(8, 6)), "image must lie in [-1, 1], got "),
        (lambda m, i: inpainting(i * math.nan, torch.ones(8, 6)), "image must lie in [-1, 1], got nan"),
        (lambda m, i: inpainting(i[0], torch.ones(8, 6)), "image must have the shape (C, H, W) or (n, C, H, W), got"),
        (lambda m, i: averages(i[:2], SHAPE), "means must divide the shape (3, 8, 6) of an image, got (2, 8, 6)"),
        (lambda m, i: averages(i[:, :3], SHAPE), "means must divide the shape (3, 8, 6) of an image, got (3, 3, 6)"),
        (
            lambda m, i: m.sample(5, steps=2, known=inpainting(i[:, :4], HALF[:4])),
            "known must be of images of shape (3, 8, 6), one or 5, got (3, 4, 6)",
        ),
        (
            lambda m, i: m.sample(5, steps=2, known=inpainting(i.expand(4, *SHAPE), HALF)),
            "known must be of images of shape (3, 8, 6), one or 5, got (4, 3, 8, 6)",
        ),
        (lambda m, i: m.sample(5, known=inpainting(i, HALF), steps=2, repeats=0), "repeats must be at least 1, got 0"),
        (lambda m, i: m.sample(5, steps=2, edit=(i, 0.0)), "strength must be above 0 and at most 1, got 0.0"),
        (lambda m, i: m.sample(5, steps=2, edit=(i, 1.1)), "strength must be above 0 and at most 1, got 1.1"),
        (lambda m, i: m.sample(5, steps=2, edit=(i, math.nan)), "strength must be above 0 and at most 1, got nan"),
        (lambda m, i: m.sample(5, steps=2, edit=(i * 9, 0.5)), "edit must lie in [-1, 1], got "),
        (lambda m, i: m.sample(5, steps=2, edit=(i[:1], 0.5)), "edit must be an image of shape (3, 8, 6), got (1, 8"),
    ],
)
def test_a_mistake_is_told(model, image, call, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        call(model, image)
    assert "\n" not in str(error.value)
