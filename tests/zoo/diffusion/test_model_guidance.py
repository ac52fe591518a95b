"""Every sampler, guidance and density of the image model, with an untrained network."""

import itertools
import math
import re

import pytest
import torch
from torch import nn

from tests.zoo.diffusion.test_model import SHAPE, T, perturbed, seeded
from zoo.diffusion import samplers
from zoo.diffusion.guidance import classifier_free, classifier_guidance, clipped, log_prob_gradient
from zoo.diffusion.model import ImageDiffusion
from zoo.diffusion.parameterization import PARAMETERIZATIONS, training_target
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.schedules import timesteps
from zoo.diffusion.solvers import SAMPLERS
from zoo.errors import UserError
from zoo.random import per_row

LABELS = torch.tensor([0, 1, 2, 3, 3])
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


class Classifier(nn.Module):
    """Of four classes, on the noise of the models here."""

    image_shape, labels = SHAPE, (4,)

    def __init__(self, schedule="cosine", steps=T):
        super().__init__()
        torch.manual_seed(1)
        self.process = NoiseProcess(schedule, steps)
        self.out = nn.Linear(math.prod(SHAPE), 4)

    def forward(self, x, t):
        assert not t.is_floating_point()
        return self.out(torch.tanh(x).flatten(1)) * (1 + t[:, None] / 10)


@pytest.fixture(scope="module")
def plain():
    return perturbed()


@pytest.fixture(scope="module")
def free():
    return perturbed(num_classes=4, null_label=True)


@pytest.fixture(scope="module")
def exploding():
    return perturbed(schedule="ve", parameterization="edm", num_classes=4, null_label=True)


@every_sampler
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("kind", ["plain", "free", "exploding"])
def test_every_sampler_draws_images(sampler, spacing, kind, request):
    model = request.getfixturevalue(kind)
    options = {"sampler": sampler, "spacing": spacing, "steps": 5}
    if kind != "plain":
        options |= {"labels": LABELS, "guidance_scale": 3.0}
    reached = []
    first = model.sample(5, generator=seeded(), on_step=lambda t, *_: reached.append(t), **options)
    assert torch.equal(first, model.sample(5, generator=seeded(), **options))
    assert not torch.equal(first, model.sample(5, generator=seeded(1), **options))
    assert first.shape == (5, *SHAPE)
    assert first.abs().max() <= 1
    assert len(reached) == 5
    assert all(later < sooner for sooner, later in itertools.pairwise(reached))
    assert len(first.unique(dim=0)) == 5


@every_sampler
def test_scale_one_is_conditional_and_zero_is_unconditional(sampler, free):
    def draw(**options):
        return free.sample(5, sampler=sampler, steps=5, generator=seeded(), **options)

    assert torch.equal(draw(labels=LABELS, guidance_scale=1.0), draw(labels=LABELS))
    assert torch.equal(draw(labels=LABELS, guidance_scale=0.0), draw())
    assert not torch.equal(draw(labels=LABELS), draw())
    scale = torch.tensor([1.0, 1.0, 0.0, 0.0, 4.0])
    mixed = draw(labels=LABELS, guidance_scale=scale)
    # float32; the batch of the network is twice as large, which may change the order of its sums
    torch.testing.assert_close(mixed[:2], draw(labels=LABELS)[:2], rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed[2:4], draw()[2:4], rtol=0, atol=1e-4)
    assert (mixed[4] - draw(labels=LABELS)[4]).abs().max() > 1e-3


def test_guidance_is_that_of_the_functions(free):
    """On unclipped estimates, clipped once at the end."""
    noise = torch.randn(5, *SHAPE, generator=seeded())
    denoise = free.denoiser(clip=False)

    def conditional(x, t, labels):
        return free.denoiser(labels, clip=False)(x, t)

    options = {"interval": (0.1, 20.0), "rescale": 0.5}
    guided = classifier_free(conditional, free.process, LABELS, torch.tensor([4]), 2.5, **options)
    with torch.inference_mode():
        expected = samplers.ddim(clipped(guided), free.process, noise, timesteps(T, 5))
    found = free.sample(
        5,
        sampler="ddim",
        steps=5,
        labels=LABELS,
        noise=noise,
        guidance_scale=2.5,
        guidance_interval=(0.1, 20.0),
        guidance_rescale=0.5,
    )
    assert torch.equal(found, expected)
    t = torch.full((5,), 6)
    assert torch.equal(denoise(noise, t), conditional(noise, t, torch.full((5,), 4)))


@pytest.mark.parametrize("kind", ["plain", "free"])
def test_a_classifier_guides_what_is_unconditional(kind, request):
    model, classifier = request.getfixturevalue(kind), Classifier()
    noise = torch.randn(5, *SHAPE, generator=seeded())

    def log_prob(x, t):
        return classifier(x, t).log_softmax(1).gather(1, LABELS[:, None])[:, 0]

    times = timesteps(T, 5)
    with torch.inference_mode():
        denoise = model.denoiser(clip=False)
        guided = clipped(classifier_guidance(denoise, model.process, log_prob, 2.0))
        through_x0 = samplers.ddim(guided, model.process, noise, times)
        by_the_mean = samplers.ancestral(
            clipped(denoise), model.process, noise, times,
            mean_gradient=lambda x, t: 2.0 * log_prob_gradient(log_prob, x, t), generator=per_row(seeded()),
        )  # fmt: skip
    options = {"steps": 5, "labels": LABELS, "classifier": classifier, "guidance_scale": 2.0, "noise": noise}
    assert torch.equal(model.sample(5, sampler="ddim", **options), through_x0)
    assert torch.equal(model.sample(5, sampler="ddpm", generator=seeded(), **options), by_the_mean)
    assert all(parameter.grad is None for parameter in classifier.parameters())


@every_sampler
def test_a_flat_classifier_and_scale_zero_change_nothing(sampler, plain):
    def draw(**options):
        return plain.sample(5, sampler=sampler, steps=5, generator=seeded(), **options)

    def flat(x, t):
        return torch.zeros(len(x), 4)

    assert torch.equal(draw(labels=LABELS, classifier=flat, guidance_scale=5.0), draw())
    assert torch.equal(draw(labels=LABELS, classifier=Classifier(), guidance_scale=0.0), draw())
    scale = torch.tensor([0.0, 0.0, 3.0, 3.0, 3.0])
    drawn = draw(labels=LABELS, classifier=Classifier(), guidance_scale=scale)
    assert torch.equal(drawn[:2], draw()[:2])
    assert not torch.equal(drawn[2:], draw()[2:])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("free", {"labels": LABELS, "guidance_scale": math.nan}, "guidance_scale must be finite, got nan"),
        ("free", {"labels": LABELS, "guidance_scale": -math.inf}, "guidance_scale must be finite, got -inf"),
        (
            "free",
            {"labels": LABELS, "guidance_scale": torch.ones(4)},
            "guidance_scale must be one number, or 5, got the",
        ),
        ("free", {"guidance_scale": 2.0}, "labels must be given: guidance is towards a class"),
        ("free", {"labels": LABELS + 2}, "labels must lie in 0 ... 4, got 5"),
        ("free", {"labels": LABELS[:, None].expand(5, 2)}, "labels must have the shape (5,), got (5, 2)"),
        ("free", {"labels": LABELS, "guidance_rescale": 2.0, "guidance_scale": 2.0}, "rescale must be between 0 and 1"),
        ("free", {"labels": LABELS, "guidance_interval": (2.0, 1.0), "guidance_scale": 2.0}, "interval must be two"),
        ("plain", {"guidance_scale": 2.0}, "guidance_scale has nothing to guide: this model has no null label"),
        (
            "plain",
            {"labels": LABELS},
            "labels must not be given: this model is unconditional, and there is no classifier",
        ),
        ("plain", {"classifier": Classifier()}, "labels must be given: a classifier guides towards a class"),
        ("plain", {"classifier": Classifier(), "labels": LABELS + 1}, "labels must lie in 0 ... 3, got 4"),
        ("plain", {"classifier": Classifier(), "labels": LABELS[:3]}, "labels must have the shape (5,), got (3,)"),
        ("plain", {"classifier": Classifier("linear"), "labels": LABELS}, "classifier must be trained on the noise of"),
        ("plain", {"classifier": Classifier(steps=T + 1), "labels": LABELS}, "classifier must be trained on the noise"),
        (
            "plain",
            {"classifier": Classifier(), "labels": LABELS, "guidance_rescale": 0.5},
            "guidance_rescale must not be given with a classifier",
        ),
    ],
)
def test_a_mistake_is_told(kind, options, message, request):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        request.getfixturevalue(kind).sample(**{"n": 5, "steps": 5} | options)
    assert "\n" not in str(error.value)


def test_a_classifier_of_other_images_is_told(plain):
    classifier = Classifier()
    classifier.image_shape = (1, 8, 6)
    with pytest.raises(
        UserError, match=re.escape("classifier must read images of shape (3, 8, 6), got one for (1, 8, 6)")
    ):
        plain.sample(5, steps=5, labels=LABELS, classifier=classifier)


def test_a_conditional_model_without_null_label_is_not_guided():
    model = perturbed(num_classes=4)
    for options in ({"guidance_scale": 2.0}, {"guidance_interval": (0.1, 1.0)}, {"guidance_rescale": 0.5}):
        (name,) = options
        with pytest.raises(UserError, match=f"{name} has nothing to guide: this model has no null label"):
            model.sample(5, steps=5, labels=LABELS, **options)
    with pytest.raises(UserError, match="classifier must not be given: this model is conditional"):
        model.sample(5, steps=5, labels=LABELS, classifier=Classifier())


def test_wrong_architecture_arguments_are_named():
    with pytest.raises(ValueError, match="parameterization must be 'eps', 'x0' or 'edm' with schedule 've', got 'v'"):
        ImageDiffusion(SHAPE, schedule="ve")
    with pytest.raises(ValueError, match="num_classes must be given with null_label"):
        ImageDiffusion(SHAPE, null_label=True)


@pytest.mark.parametrize("parameterization", [p for p in PARAMETERIZATIONS if p != "v"])
def test_an_exploding_model_denoises(parameterization):
    """A network that answers with its target denoises perfectly, and has no loss; what it is shown has unit scale."""
    model = ImageDiffusion(SHAPE, channels=4, num_timesteps=T, schedule="ve", parameterization=parameterization)
    x0, noise = torch.rand(5, *SHAPE, generator=seeded()) * 2 - 1, torch.randn(5, *SHAPE, generator=seeded(1))
    t = torch.tensor([1, 4, 7, 9, T])
    target, seen = training_target(parameterization, x0, noise, *model.process.signal_and_noise(t)), []
    model.network.forward = lambda x, t, *_: seen.append(x) or target
    estimate = model.denoiser()(model.process.add_noise(x0, noise, t), t)
    torch.testing.assert_close(estimate, x0, rtol=0, atol=5e-5)  # float32, in sums of up to 50 times that
    assert torch.equal(model.loss(x0, t, noise), torch.zeros(5))
    assert all(shown.std() < 1.5 for shown in seen)


@pytest.mark.parametrize("kind", ["plain", "free", "exploding"])
def test_score_and_log_likelihood_are_finite_and_repeatable(kind, request):
    model = request.getfixturevalue(kind)
    x0 = torch.rand(5, *SHAPE, generator=seeded()) * 2 - 1
    labels = None if kind == "plain" else LABELS
    with torch.inference_mode():
        found = [model.log_likelihood(x0, labels=labels, steps=3, generator=seeded(s)) for s in (0, 0, 1)]
    assert found[0].shape == (5,)
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    double = model.log_likelihood(x0.double(), labels=labels, steps=3, generator=seeded())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), found[0], rtol=1e-3, atol=0.1)  # sums of 144 float32 numbers
    t = torch.tensor([1, 4, 7, 9, T])
    signal, sigma = model.process.signal_and_noise(t)
    eps = (x0 - signal * model.denoiser(labels, clip=False)(x0, t)) / sigma
    torch.testing.assert_close(model.score(x0, t, labels), -eps / sigma, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "karras"])
def test_an_exploding_model_starts_from_the_noise_of_its_first_time(spacing):
    """The network is shown c_in sigma noise, which is nearly the latent itself; "leading" starts far below T."""
    model = ImageDiffusion(SHAPE, channels=4, num_timesteps=T, schedule="ve", parameterization="edm")
    noise, seen, asked = torch.randn(5, *SHAPE, generator=seeded()), [], []
    model.network.forward = lambda x, t, *_: (seen.append(x), asked.append(t), x)[-1]
    model.sample(5, steps=5, spacing=spacing, noise=noise)
    sigma = model.process.at(round(asked[0][0].item() * T / 1000))[1]
    torch.testing.assert_close(seen[0], noise * sigma / math.hypot(sigma, 0.5))


# several label columns ----------------------------------------------------------------------------------------------

PAIRS = torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1], [0, 0]])  # of 3 x 2 classes


@pytest.fixture(scope="module")
def columns():
    return perturbed(num_classes=(3, 2), null_label=True)


def test_each_column_counts_and_has_a_null_label_of_its_own(columns):
    assert columns.labels == (3, 2)
    assert columns.null_labels.tolist() == [[3, 2]]
    noise, t = torch.randn(1, *SHAPE, generator=seeded()).expand(12, -1, -1, -1), torch.full((12,), 6)
    every = torch.cartesian_prod(torch.arange(4), torch.arange(3))  # with the null labels
    estimates = columns.denoiser(every, clip=False)(noise, t)
    assert len({tuple(row) for row in estimates.flatten(1).round(decimals=5).tolist()}) == 12
    unconditional = columns.denoiser(clip=False)(noise[:1], t[:1])
    torch.testing.assert_close(unconditional, estimates[-1:], rtol=0, atol=1e-5)  # other batch, other sums


def test_labels_of_several_columns_are_sampled_and_guided(columns):
    def draw(**options):
        return columns.sample(5, steps=4, generator=seeded(), **options)

    assert torch.equal(draw(labels=PAIRS, guidance_scale=0.0), draw())
    assert torch.equal(draw(labels=PAIRS, guidance_scale=1.0), draw(labels=PAIRS))
    nulls = torch.tensor([[3, 2]]).expand(5, 2)
    torch.testing.assert_close(draw(labels=nulls, guidance_scale=4.0), draw(), rtol=0, atol=1e-4)
    partly = torch.stack([PAIRS[:, 0], nulls[:, 1]], dim=1)  # any of the second column
    for labels in (PAIRS, partly):
        assert not torch.equal(draw(labels=labels, guidance_scale=3.0), draw(labels=labels))
    with pytest.raises(UserError, match=re.escape("labels must lie in 0 ... 3, got 4")):
        draw(labels=PAIRS + 2)
    with pytest.raises(UserError, match=re.escape("labels must have the shape (5, 2), got (5,)")):
        draw(labels=PAIRS[:, 0])


def test_labels_in_turn_visit_every_combination_once(columns, plain):
    labels = columns.labels_in_turn(torch.arange(12))
    assert labels[:4].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1]]
    assert len(labels[:6].unique(dim=0)) == 6
    assert torch.equal(labels[6:], labels[:6])
    assert perturbed(num_classes=4).labels_in_turn(torch.arange(6)).flatten().tolist() == [0, 1, 2, 3, 0, 1]
    assert plain.labels_in_turn(torch.arange(6)) is None


def test_a_double_network_computes_in_double():
    model = perturbed(num_classes=4, schedule="ve", parameterization="edm")
    x0 = torch.rand(5, *SHAPE, generator=seeded()) * 2 - 1
    single = model.log_likelihood(x0, labels=LABELS, steps=3, generator=seeded())
    model.double()
    found = model.log_likelihood(x0.double(), labels=LABELS, steps=3, generator=seeded())
    assert model(x0.double(), torch.full((5,), 2.5, dtype=torch.float64), LABELS).dtype == torch.float64
    torch.testing.assert_close(found.float(), single, rtol=1e-3, atol=0.1)  # sums of 144 float32 numbers
    # the time is felt below float32's resolution of it
    t = torch.full((5,), 7.3, dtype=torch.float64)
    change = model(x0.double(), t + 1e-9, LABELS) - model(x0.double(), t, LABELS)
    assert 0 < change.abs().max() < 1e-6
