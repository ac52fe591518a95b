import inspect
import itertools
import re
from typing import get_args

import pytest
import torch

from zoo.diffusion import likelihood
from zoo.diffusion.likelihood import dequantise, log_bin_volume
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.parameterization import PARAMETERIZATIONS, training_target
from zoo.diffusion.schedules import SPACINGS, timesteps
from zoo.diffusion.solvers import SAMPLERS
from zoo.errors import UserError
from zoo.random import normal, per_row

SHAPE = (3, 8, 6)
T = 12


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def perturbed(**arguments):
    """An untrained model none of whose weights are zero, so that every input can be seen in the output."""
    torch.manual_seed(0)
    model = ImageDiffusion(SHAPE, channels=4, num_timesteps=T, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return perturbed()


@pytest.fixture(scope="module")
def conditional():
    return perturbed(num_classes=4)


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "ddim", "steps": 5},
        {"sampler": "ddim", "steps": 5, "eta": 0.7},
        {"sampler": "ddpm", "steps": 5},
        {"sampler": "ddpm", "steps": T},
    ],
)
def test_a_seed_is_a_picture(model, options):
    first, second, other = (model.sample(5, generator=seeded(seed), **options) for seed in (0, 0, 1))
    assert first.shape == (5, *SHAPE)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert len(first.unique(dim=0)) == 5  # no two of a batch are alike
    torch.manual_seed(99)
    assert torch.equal(model.sample(5, generator=seeded(), **options), first)  # the global seed plays no part


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 5, T])
def test_images_lie_within_their_range(model, sampler, spacing, steps):
    reached = []
    images = model.sample(
        5,
        sampler=sampler,
        spacing=spacing,
        steps=steps,
        generator=seeded(),
        on_step=lambda t, x, x0: reached.append((t, x.shape, x0.shape)),
    )
    assert images.abs().max() <= 1  # the last step returns the clipped estimate itself, bit by bit
    assert reached == [(t, (5, *SHAPE), (5, *SHAPE)) for t in timesteps(T, steps, spacing)[1:]]
    assert reached[-1][0] == 0
    assert all(later[0] < sooner[0] for sooner, later in itertools.pairwise(reached))


def test_given_noise_is_where_sampling_starts(model):
    noise = normal((5, *SHAPE), per_row(seeded(7)), "cpu")
    drawn = model.sample(5, sampler="ddim", steps=5, noise=noise)
    assert torch.equal(
        drawn, model.sample(5, sampler="ddim", steps=5, generator=seeded(7))
    )  # the same numbers, drawn within
    # a sample does not see its batch: float32, as the size of the batch may change the order of a sum
    torch.testing.assert_close(
        drawn[2:4], model.sample(2, sampler="ddim", steps=5, noise=noise[2:4]), rtol=0, atol=1e-5
    )
    before = noise.clone()
    model.sample(5, sampler="ddim", steps=5, noise=noise)
    assert torch.equal(noise, before)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_is_the_same_however_many_are_drawn(model, sampler):
    """Equal to rounding: a network's sums may change their order with the size of the batch."""
    options = {"sampler": sampler, "steps": 5} | ({"eta": 0.7} if sampler == "ddim" else {})
    many = model.sample(7, generator=seeded(), **options)
    for count in (1, 2, 6):
        few = model.sample(count, generator=seeded(), **options)
        torch.testing.assert_close(few, many[:count], rtol=0, atol=1e-4)


def test_variance_is_large_at_all_steps_and_small_on_fewer(model):
    def draw(steps, variance=None):
        return model.sample(5, sampler="ddpm", steps=steps, variance=variance, generator=seeded())

    assert torch.equal(draw(T), draw(T, "large"))
    assert not torch.equal(draw(T), draw(T, "small"))
    assert torch.equal(draw(5), draw(5, "small"))
    assert not torch.equal(draw(5), draw(5, "large"))


def test_eta_one_is_ancestral(model):
    torch.testing.assert_close(
        model.sample(5, sampler="ddim", eta=1.0, steps=5, generator=seeded()),
        model.sample(5, sampler="ddpm", variance="small", steps=5, generator=seeded()),
        rtol=0,
        atol=1e-5,  # float32 over five steps
    )


def test_labels_steer_the_sample(conditional):
    labels = torch.tensor([0, 1, 2, 3, 3])
    noise = torch.randn(5, *SHAPE, generator=seeded())
    images = conditional.sample(5, sampler="ddim", steps=5, labels=labels, noise=noise)
    others = conditional.sample(5, sampler="ddim", steps=5, labels=torch.tensor([0, 1, 2, 3, 0]), noise=noise)
    # the same arithmetic on the same numbers: each sample follows its own label only
    assert torch.equal(images[:4], others[:4])
    assert not torch.equal(images[4], others[4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": -3}, "n must be at least 1, got -3"),
        ({"steps": 0}, f"steps must be between 1 and the model's {T}, got 0"),
        ({"steps": T + 1}, f"steps must be between 1 and the model's {T}, got {T + 1}"),
        ({"sampler": "euler"}, f"sampler must be one of {', '.join(SAMPLERS)}, got 'euler'"),
        ({"spacing": "even"}, "spacing must be one of"),
        ({"sampler": "ddim", "eta": 2.0}, "eta must be between 0 and 1, got 2.0"),
        ({"sampler": "ddim", "eta": -0.5}, "eta must be between 0 and 1, got -0.5"),
        ({"sampler": "ddpm", "variance": "medium"}, "variance must be 'small' or 'large', got 'medium'"),
        ({"noise": torch.zeros(4, *SHAPE)}, "noise must have the shape (5, 3, 8, 6), got (4, 3, 8, 6)"),
        ({"noise": torch.zeros(5, 3, 6, 8)}, "noise must have the shape (5, 3, 8, 6), got (5, 3, 6, 8)"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels must not be given: this model is unconditional"),
    ],
)
def test_a_mistake_is_told(model, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        model.sample(**{"n": 5, "steps": 5} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels must be given: this model is conditional on 4 classes"),
        ([0, 1, 2], "labels must have the shape (5,), got (3,)"),
        ([0, 1, 4, 3, 2], "labels must lie in 0 ... 3, got 4"),
        ([0, 1, -1, 3, 2], "labels must lie in 0 ... 3, got -1"),
    ],
)
def test_a_mistake_in_the_labels_is_told(conditional, labels, message):
    with pytest.raises(UserError, match=re.escape(message)):
        conditional.sample(5, steps=5, labels=None if labels is None else torch.tensor(labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_every_integer_type_are_understood(conditional, dtype):
    labels = torch.tensor([0, 1, 2, 3, 3])
    expected = conditional.sample(5, steps=3, labels=labels, generator=seeded())
    assert torch.equal(conditional.sample(5, steps=3, labels=labels.to(dtype), generator=seeded()), expected)
    assert torch.equal(conditional.sample(5, steps=3, labels=labels.tolist(), generator=seeded()), expected)
    x = torch.zeros(5, *SHAPE)
    likely = [conditional.log_likelihood(x, labels=y, steps=1, generator=seeded()) for y in (labels, labels.to(dtype))]
    assert torch.equal(*likely)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1, 2, 3, 3]), "labels must be whole numbers, got the type float32"),
        (torch.tensor([True] * 5), "labels must be whole numbers, got the type bool"),
        ([0.0, 1, 2, 3, 3], "labels must be whole numbers, got the type float32"),
        (["cat"] * 5, "labels must be a tensor of whole numbers, got ['cat', "),
        ([[1], [2, 3]], "labels must be a tensor of whole numbers, got [[1], [2, 3]]"),
    ],
)
def test_labels_that_are_no_whole_numbers_are_told(conditional, labels, message):
    for call in (
        lambda: conditional.sample(5, steps=3, labels=labels),
        lambda: conditional.log_likelihood(torch.zeros(5, *SHAPE), labels=labels),
    ):
        with pytest.raises(UserError, match=re.escape(message)) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_likelihood_of_grey_levels_is_the_mean_over_noise_within_them(model):
    x = torch.randint(0, 17, (5, *SHAPE), generator=seeded()) / 8 - 1
    source = seeded(3)
    drawn = [
        model.log_likelihood(dequantise(x, 17, source), steps=2, generator=source) + log_bin_volume(144, 17)
        for _ in range(3)
    ]
    found = model.log_likelihood(x, levels=17, draws=3, steps=2, generator=seeded(3))
    torch.testing.assert_close(found, torch.stack(drawn).mean(0))
    assert torch.equal(found, model.log_likelihood(x, levels=17, draws=3, steps=2, generator=seeded(3)))
    # an exact trace takes a product for each dimension: of 4 instead of 144
    small = ImageDiffusion((1, 2, 2), channels=4, num_timesteps=T, channel_multipliers=(1,), attention_levels=()).eval()
    x = torch.randn(2, 1, 2, 2, generator=seeded())
    continuous = likelihood.log_likelihood(small.denoiser(clip=False), small.process, x, steps=1, trace="exact")
    assert torch.equal(small.log_likelihood(x, steps=1, trace="exact"), continuous)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels must be 0 or at least 2, got 1"),
        ({"levels": -3}, "levels must be 0 or at least 2, got -3"),
        ({"levels": 17, "draws": 0}, "draws must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"trace": "hutch"}, "trace must be one of"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "labels must not be given: this model is unconditional"),
    ],
)
def test_a_mistake_about_a_likelihood_is_told(model, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model.log_likelihood(torch.zeros(5, *SHAPE), **options)


def test_the_names_of_the_signature_are_those_of_the_library():
    parameters = inspect.signature(ImageDiffusion.sample).parameters
    assert get_args(parameters["sampler"].annotation) == tuple(SAMPLERS)
    assert get_args(parameters["spacing"].annotation) == (*SPACINGS, "karras")
    documented = inspect.getdoc(ImageDiffusion.sample)
    assert all(f"\n    {name}: " in documented for name in parameters if name != "self")


def test_a_printed_model_says_what_matters(conditional):
    assert (
        "shape=(3, 8, 6), labels=(4,), null_label=False, process=NoiseProcess('cosine', 12, noise levels 0.14 ... "
        in repr(conditional)
    )
    assert "parameterization='v'" in repr(conditional)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_learn_and_sample(dtype):
    """As Lightning's "bf16-true" has them: PyTorch's default type is theirs too."""
    model = perturbed(num_classes=4).to(dtype)
    x0, t = torch.zeros(5, *SHAPE, dtype=dtype), torch.tensor([1, 3, 6, 9, T])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model.loss(x0, t, torch.randn_like(x0), torch.tensor([0, 1, 2, 3, 3])).sum().backward()
        images = model.sample(5, steps=3, labels=torch.tensor([0, 1, 2, 3, 3]), generator=seeded())
    finally:
        torch.set_default_dtype(before)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_wrong_architecture_arguments_are_named():
    with pytest.raises(ValueError, match="parameterization"):
        ImageDiffusion(SHAPE, parameterization="score")
    with pytest.raises(ValueError, match="schedule"):
        ImageDiffusion(SHAPE, schedule="sigmoid")


@pytest.mark.parametrize("num_timesteps", [T, 1000])
def test_the_network_is_told_times_of_a_process_of_1000_steps(num_timesteps):
    model = ImageDiffusion(SHAPE, channels=4, num_timesteps=num_timesteps)
    seen = []
    model.network.forward = lambda x, t, *_: seen.append(t) or x
    model(torch.zeros(3, *SHAPE), torch.tensor([0, num_timesteps // 2, num_timesteps]))
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 500.0, 1000.0]))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_denoiser_undoes_the_parameterisation(parameterization):
    """A network that answers with its training target denoises perfectly, and has no loss."""
    model = ImageDiffusion(SHAPE, channels=4, num_timesteps=T, parameterization=parameterization)
    x0 = torch.rand(5, *SHAPE, generator=seeded()) * 2 - 1
    noise = torch.randn(5, *SHAPE, generator=seeded(1))
    t = torch.tensor([1, 4, 7, 9, 10])
    target = training_target(parameterization, x0, noise, *model.process.signal_and_noise(t))
    model.network.forward = lambda x, t, *_: target
    estimate = model.denoiser()(model.process.add_noise(x0, noise, t), t)
    torch.testing.assert_close(estimate, x0, rtol=0, atol=1e-5)  # float32, over sqrt(abar) of at least 0.25
    assert torch.equal(model.loss(x0, t, noise), torch.zeros(5))


def test_denoiser_clips_when_asked(model):
    x_t, t = 5 * torch.randn(5, *SHAPE, generator=seeded()), torch.tensor([1, 3, 6, 9, T])
    clipped, free = model.denoiser()(x_t, t), model.denoiser(clip=False)(x_t, t)
    assert free.abs().max() > 1
    assert torch.equal(clipped, free.clamp(-1, 1))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_denoiser_is_float32_under_bf16(parameterization):
    model = perturbed(parameterization=parameterization)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.denoiser()(torch.randn(5, *SHAPE), torch.full((5,), 3)).dtype == torch.float32


def test_bound_is_repeatable_and_leaves_no_graph(conditional):
    x0 = torch.randint(0, 17, (5, *SHAPE), generator=seeded()) / 8 - 1
    labels = torch.tensor([0, 1, 2, 3, 3])
    first, second = (conditional.bound(x0, 17, labels=labels, generator=seeded()) for _ in range(2))
    other = conditional.bound(x0, 17, labels=labels.flip(0), generator=seeded())
    assert first.total.shape == (5,)
    assert first.total.isfinite().all()
    assert torch.equal(first.total, second.total)
    assert not torch.equal(first.total, other.total)
    assert not first.total.requires_grad


def test_sampling_and_training_take_turns(model):
    """What sampling keeps must not be an inference tensor in the way of a later gradient."""
    model.sample(2, steps=2, generator=seeded())
    model.loss(torch.zeros(5, *SHAPE), torch.arange(1, 6), torch.randn(5, *SHAPE)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()
