"""Guidance of exact denoisers of a mixture of Gaussians, where what it should do is known."""

import math

import pytest
import torch
from torch import nn

from tests.zoo.diffusion.mixture import Mixture
from zoo.diffusion import samplers, schedules, solvers
from zoo.diffusion.autograd import vector_jacobian
from zoo.diffusion.guidance import classifier_free, classifier_guidance, clipped, drop_labels, log_prob_gradient
from zoo.diffusion.process import NoiseProcess

MIXTURE = Mixture()
PROCESSES = [("linear", 60), ("cosine", 60), ("ve", 60)]
LABELS = torch.tensor([0, 1, 2, 1, 0])
NULL = torch.tensor([3])
TIMES = torch.tensor([1, 12, 30, 44, 58])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


def counted(denoise, sizes):
    def denoise_and_count(x_t, t, labels):
        assert len(x_t) == len(t) == len(labels)
        sizes.append(len(x_t))
        return denoise(x_t, t, labels)

    return denoise_and_count


def noised(process):
    """Five points, each noised to its time."""
    signal, sigma = process.signal_and_noise(TIMES, 2, torch.float64)
    return signal * MIXTURE.draw(5, seeded(3)) + sigma * draw(5, 2)


@pytest.fixture(params=PROCESSES, ids=lambda pair: pair[0])
def process(request):
    return NoiseProcess(*request.param)


# classifier-free ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "label"), [(1.0, None), (0.0, 3)])
def test_scale_one_is_conditional_and_zero_is_not(process, scale, label):
    """Bit by bit, and at the price of one branch."""
    sizes, denoise, x_t = [], MIXTURE.conditional(process), noised(process)
    expected = denoise(x_t, TIMES, LABELS if label is None else torch.full((5,), label))
    guided = classifier_free(counted(denoise, sizes), process, LABELS, NULL, scale)
    assert torch.equal(guided(x_t, TIMES), expected)
    assert sizes == [5]


def test_guidance_moves_eps_along_the_difference(process):
    """eps = eps_u + s (eps_c - eps_u), whether s is below 0, between or above 1; from one call of twice the batch."""
    sizes, denoise, x_t = [], MIXTURE.conditional(process), noised(process)
    scale = torch.tensor([-0.5, 0.3, 1.7, 3.0, 10.0], dtype=torch.float64)
    signal, sigma = process.signal_and_noise(TIMES, 2, torch.float64)

    def eps(x0):
        return (x_t - signal * x0) / sigma

    free, bound = eps(denoise(x_t, TIMES, torch.full((5,), 3))), eps(denoise(x_t, TIMES, LABELS))
    guided = eps(classifier_free(counted(denoise, sizes), process, LABELS, NULL, scale)(x_t, TIMES))
    assert sizes == [10]
    # float64, through 1 / sigma of up to 200
    torch.testing.assert_close(guided, free + scale[:, None] * (bound - free), rtol=0, atol=1e-11)


def test_each_sample_has_its_own_scale(process):
    denoise, x_t = MIXTURE.conditional(process), noised(process)
    scale = torch.tensor([0.0, 1.0, 2.5, 1.0, 4.0])
    together = classifier_free(denoise, process, LABELS, NULL, scale)(x_t, TIMES)
    for i in range(5):
        row = slice(i, i + 1)
        alone = classifier_free(denoise, process, LABELS[row], NULL, scale[i].item())(x_t[row], TIMES[row])
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-14)


def test_a_mix_of_zeros_and_ones_costs_one_branch(process):
    sizes, denoise, x_t = [], MIXTURE.conditional(process), noised(process)
    scale = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    guided = classifier_free(counted(denoise, sizes), process, LABELS, NULL, scale)(x_t, TIMES)
    assert torch.equal(guided, denoise(x_t, TIMES, torch.where(scale == 1, LABELS, NULL)))
    assert sizes == [5]


def test_several_label_columns_keep_their_rows():
    process, seen = NoiseProcess("cosine", 60), []
    labels, nulls = torch.tensor([[0, 1], [2, 0], [1, 1]]), torch.tensor([3, 2])

    def denoise(x_t, t, labels):
        seen.append(labels)
        return x_t

    x_t, t = draw(3, 2), TIMES[:3]
    classifier_free(denoise, process, labels, nulls, 2.0)(x_t, t)
    classifier_free(denoise, process, labels, nulls, torch.tensor([0.0, 1.0, 0.0]))(x_t, t)
    assert torch.equal(seen[0], torch.tensor([[3, 2], [3, 2], [3, 2], [0, 1], [2, 0], [1, 1]]))
    assert torch.equal(seen[1], torch.tensor([[3, 2], [2, 0], [3, 2]]))


def test_outside_its_interval_guidance_is_conditional(process):
    sizes, denoise, x_t = [], MIXTURE.conditional(process), noised(process)
    levels = process.noise_levels[TIMES]
    interval = (levels[1].item() * 0.99, levels[3].item() * 1.01)
    guided = classifier_free(counted(denoise, sizes), process, LABELS, NULL, 3.0, interval=interval)
    always = classifier_free(denoise, process, LABELS, NULL, 3.0)(x_t, TIMES)
    conditional = denoise(x_t, TIMES, LABELS)
    result = guided(x_t, TIMES)
    assert torch.equal(result[1:4], always[1:4])
    assert torch.equal(result[[0, 4]], conditional[[0, 4]])
    assert sizes == [10]
    for end, row in ((1, 0), (58, 4)):  # the whole batch outside: one branch
        assert torch.equal(guided(x_t, torch.full((5,), end))[row], conditional[row])
    assert sizes == [10, 5, 5]


def test_rescaling_restores_the_spread_of_the_conditional():
    """Over all axes of a sample but the first; half of the way at 0.5."""
    process, x_t = NoiseProcess("cosine", 60), draw(5, 3, 8, 6)
    target = {0: draw(5, 3, 8, 6, seed=1), 3: draw(5, 3, 8, 6, seed=2)}

    def denoise(x_t, t, labels):
        return torch.cat([target[3], target[0]])

    def spread(phi):
        labels = torch.zeros(5, dtype=torch.long)
        return classifier_free(denoise, process, labels, NULL, 3.0, rescale=phi)(x_t, TIMES)

    torch.testing.assert_close(spread(1.0).std((1, 2, 3)), target[0].std((1, 2, 3)))
    torch.testing.assert_close(spread(0.5), (spread(0.0) + spread(1.0)) / 2)
    assert (spread(0.0).std((1, 2, 3)) > 2 * target[0].std((1, 2, 3))).all()


def test_clipping_comes_after_mixing(process):
    denoise, x_t = MIXTURE.conditional(process), noised(process)
    guided = classifier_free(denoise, process, LABELS, NULL, 7.0)
    free = guided(x_t, TIMES)
    assert (free.abs() > 0.5).any()
    assert torch.equal(clipped(guided, -0.5, 0.5)(x_t, TIMES), free.clamp(-0.5, 0.5))


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, torch.tensor([1.0, math.nan, 1.0, 1.0, 1.0])])
def test_a_scale_that_is_no_number_is_refused(scale):
    process = NoiseProcess("cosine", 60)
    with pytest.raises(ValueError, match="scale must be finite, got"):
        classifier_free(MIXTURE.conditional(process), process, LABELS, NULL, scale)
    with pytest.raises(ValueError, match="scale must be finite, got"):
        classifier_guidance(MIXTURE.denoiser(process), process, lambda x, t: x[:, 0], scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (2.0, 1.0)}, "interval must be two noise levels"),
        ({"interval": (math.nan, 1.0)}, "interval must be two noise levels"),
        ({"rescale": 1.5}, "rescale must be between 0 and 1, got 1.5"),
        ({"rescale": math.nan}, "rescale must be between 0 and 1, got nan"),
    ],
)
def test_wrong_options_are_named(options, message):
    process = NoiseProcess("cosine", 60)
    with pytest.raises(ValueError, match=message):
        classifier_free(MIXTURE.conditional(process), process, LABELS, NULL, 2.0, **options)


# with a classifier --------------------------------------------------------------------------------


def test_bayes_rule_makes_the_two_kinds_of_guidance_one(process):
    """x_u + s (x_c - x_u), with exact denoisers, is x_u moved by s grad log p(c | x_t): for every scale."""
    x_t = noised(process)
    scale = torch.tensor([0.0, 1.0, 3.0, 0.4, -2.0], dtype=torch.float64)
    free = classifier_free(MIXTURE.conditional(process), process, LABELS, NULL, scale)
    classified = classifier_guidance(MIXTURE.denoiser(process), process, MIXTURE.class_log_prob(process, LABELS), scale)
    # float64, with sigma^2 / a up to 2e4 for the cosine, where the gradients are as much smaller
    torch.testing.assert_close(classified(x_t, TIMES), free(x_t, TIMES), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("log_prob", [lambda x, t: torch.zeros(len(x)), lambda x, t: 0 * x.sum(1) - 1.6])
def test_a_flat_classifier_changes_nothing(process, log_prob):
    denoise, x_t = MIXTURE.denoiser(process), noised(process)
    assert torch.equal(classifier_guidance(denoise, process, log_prob, 5.0)(x_t, TIMES), denoise(x_t, TIMES))
    drawn, plain = (
        samplers.ancestral(denoise, process, draw(5, 2), [60, 31, 7, 0], mean_gradient=gradient, generator=seeded())
        for gradient in (lambda x, t: log_prob_gradient(log_prob, x, t), None)
    )
    assert torch.equal(drawn, plain)


def test_scale_zero_does_not_ask_the_classifier(process):
    denoise = MIXTURE.denoiser(process)
    assert classifier_guidance(denoise, process, None, 0.0) is denoise


def test_shifting_the_mean_is_guidance_with_the_variance_of_the_step(process):
    """The score form moves the mean of a step by beta / sqrt(r) times the gradient, this one by the step's variance."""
    log_prob = MIXTURE.class_log_prob(process, LABELS)
    denoise, x = MIXTURE.denoiser(process), draw(5, 2)
    gradient = log_prob_gradient(log_prob, x, torch.full((5,), 40))
    for variance, t, s in (("small", 40, 25), ("large", 40, 25), ("small", 40, 39), ("large", 40, 39)):
        plain, shifted = (
            samplers.ancestral(denoise, process, x, [t, s], variance=variance, mean_gradient=g, generator=seeded())
            for g in (None, lambda x, t: 3 * log_prob_gradient(log_prob, x, t))
        )
        q = process.posterior(t, s)
        width = q.variance if variance == "small" else q.forward_variance
        torch.testing.assert_close(shifted - plain, 3 * width * gradient, rtol=1e-9, atol=1e-13)
        scored = samplers.ancestral(
            classifier_guidance(denoise, process, log_prob, 3.0), process, x, [t, s], variance=variance,
            generator=seeded(),
        )  # fmt: skip
        ratio = process.at(t)[0] / process.at(s)[0]
        torch.testing.assert_close(scored - plain, 3 * q.forward_variance / ratio * gradient, rtol=1e-6, atol=1e-12)


def test_the_last_step_is_not_shifted():
    process = NoiseProcess("linear", 60)
    drawn = samplers.ancestral(
        lambda x, t: 0 * x, process, draw(5, 2), [60, 0], variance="large", mean_gradient=lambda x, t: x + 1
    )
    assert torch.equal(drawn, torch.zeros(5, 2, dtype=torch.float64))


# gradients where gradients are off ----------------------------------------------------------------


class Classifier(nn.Module):
    """Every kind of layer that an image classifier has, and an embedding of the time."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.embed, self.out = nn.Embedding(60, 4), nn.Linear(4, 7)
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x, t):
        h = torch.nn.functional.silu(self.norm(self.conv(x)) + self.embed(t)[:, :, None, None])
        tokens = h.flatten(2).transpose(1, 2)
        h = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1) * self.shift
        return self.out(h).log_softmax(1)[:, 2]


def classifier(inference):
    torch.manual_seed(0)
    if not inference:
        return Classifier()
    with torch.inference_mode():
        return Classifier()


@pytest.mark.parametrize("weights", ["ordinary", "inference"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradients_reach_through_every_mode(weights, mode):
    x, ordinary = torch.randn(5, 3, 8, 6, generator=seeded()), classifier(False)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ordinary(leaf, TIMES).sum(), leaf)
    model = classifier(weights == "inference")
    with mode():
        gradient = log_prob_gradient(model, x + 0, TIMES + 0)  # made here, so inference tensors in inference mode
        assert not gradient.requires_grad
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_float32_under_bf16():
    x, model = torch.randn(5, 3, 8, 6, generator=seeded()), classifier(False)
    exact = log_prob_gradient(model, x, TIMES)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_prob_gradient(model, x, TIMES), exact)
        assert log_prob_gradient(model, x.bfloat16(), TIMES).dtype == torch.float32


def test_another_failure_is_told_as_it_is():
    with pytest.raises(RuntimeError, match="out of cheese"):
        vector_jacobian(lambda x: exec("raise RuntimeError('out of cheese')"), draw(5, 2), [])


# what is sampled ----------------------------------------------------------------------------------


def guided(kind, process, count, label, scale):
    labels = torch.full((count,), label)
    if kind == "classifier-free":
        return classifier_free(MIXTURE.conditional(process), process, labels, NULL, scale)
    return classifier_guidance(MIXTURE.denoiser(process), process, MIXTURE.class_log_prob(process, labels), scale)


SAMPLERS = {
    "ddim": samplers.ddim,
    "ddpm": lambda *args, **options: samplers.ancestral(*args, variance="large", **options),
    "heun": solvers.heun,
    "dpm++2m": solvers.dpm_solver_pp,
    "dpm++2m-sde": lambda *args, **options: solvers.dpm_solver_pp(*args, sde=True, **options),
}


@pytest.mark.parametrize("schedule", ["cosine", "ve"])
@pytest.mark.parametrize("kind", ["classifier-free", "classifier"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scale_one_samples_the_conditional(sampler, kind, schedule):
    process, count, label = NoiseProcess(schedule, 400), 4000, 1
    x = process.prior_std * torch.randn(count, 2, dtype=torch.float64, generator=seeded(1))
    times = schedules.times_for(process, 200, "karras")
    x = SAMPLERS[sampler](guided(kind, process, count, label, 1.0), process, x, times, generator=seeded(2))
    mean, std = MIXTURE.mean[label], MIXTURE.std[label]
    assert ((x.mean(0) - mean).abs() < 4 * std / math.sqrt(count)).all()  # 4 standard errors
    # 4 standard errors of a variance, and 3 % for the bias of 200 steps (ddim and the large variance: first order)
    assert ((x.var(0) / std**2 - 1).abs() < 4 * math.sqrt(2 / count) + 0.03).all()
    assert abs(torch.corrcoef(x.T)[0, 1]) < 4 / math.sqrt(count)


def test_shifting_the_mean_samples_the_conditional():
    process, count, label = NoiseProcess("cosine", 400), 4000, 1
    log_prob = MIXTURE.class_log_prob(process, torch.full((count,), label))
    x = samplers.ancestral(
        MIXTURE.denoiser(process), process, draw(count, 2, seed=1), schedules.timesteps(400, 400), variance="large",
        mean_gradient=lambda x, t: log_prob_gradient(log_prob, x, t), generator=seeded(2),
    )  # fmt: skip
    mean, std = MIXTURE.mean[label], MIXTURE.std[label]
    # 4 standard errors, and 0.5 % and 3 % for the bias of 400 steps
    assert ((x.mean(0) - mean).abs() < 4 * std / math.sqrt(count) + 0.005).all()
    assert ((x.var(0) / std**2 - 1).abs() < 4 * math.sqrt(2 / count) + 0.03).all()


def test_a_scale_of_three_does_not_sample_the_tilted_density():
    """Of p(x) p(c | x)^3: the guided flow draws something else, and not by an error of its steps."""
    process, count, label = NoiseProcess("cosine", 400), 4000, 1
    axis = torch.linspace(-2.5, 2.5, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    clean = torch.zeros(len(grid), dtype=torch.long)
    labels = torch.full((len(grid),), label)
    tilted = MIXTURE.log_prob(process, grid, 0.0) + 3 * MIXTURE.class_log_prob(process, labels)(grid, clean)
    weight = tilted.softmax(0)[:, None]
    mean = (weight * grid).sum(0)
    std = (weight * (grid - mean) ** 2).sum(0).sqrt()
    drawn = [
        solvers.heun(
            guided("classifier-free", process, count, label, 3.0), process, draw(count, 2, seed=1),
            schedules.karras_timesteps(process, steps),
        )
        for steps in (50, 100)
    ]  # fmt: skip
    between = (drawn[0] - drawn[1]).abs().mean()
    assert between < 0.02 * std.min()
    # the numbers that the docs show, to their last digit or 4 standard errors
    assert mean.tolist() == pytest.approx([0.51, -0.51], abs=0.006)
    assert std.tolist() == pytest.approx([0.19, 0.20], abs=0.006)
    assert drawn[1].mean(0).tolist() == pytest.approx([0.73, -0.66], abs=0.01)
    assert drawn[1].std(0).tolist() == pytest.approx([0.13, 0.15], abs=0.01)


# dropping labels ----------------------------------------------------------------------------------------------------


def test_one_column_of_labels_is_dropped_with_the_probability():
    torch.manual_seed(0)
    labels = torch.arange(10_000) % 4
    dropped = drop_labels(labels, torch.tensor([[4]]), 0.2)
    assert dropped.shape == (10_000, 1)
    lost = dropped[:, 0] == 4
    assert torch.equal(dropped[~lost, 0], labels[~lost])
    assert abs(lost.float().mean() - 0.2) < 4 * 0.004  # four standard errors
    assert torch.equal(labels, torch.arange(10_000) % 4), "in place would spoil the data"


def test_columns_are_dropped_together_and_each_by_itself():
    """All with probability p, then each with p: all of two lost p + (1 - p) p^2, only the first (1 - p) p (1 - p)."""
    torch.manual_seed(0)
    labels = torch.stack([torch.arange(20_000) % 3, torch.arange(20_000) % 2], dim=1)
    dropped = drop_labels(labels, torch.tensor([[3, 2]]), 0.3)
    first, second = (dropped == torch.tensor([3, 2])).unbind(1)
    assert torch.equal(dropped[~first, 0], labels[~first, 0])
    assert torch.equal(dropped[~second, 1], labels[~second, 1])
    for share, expected in (
        (first & second, 0.3 + 0.7 * 0.09),
        (first & ~second, 0.7 * 0.3 * 0.7),
        (~first & second, 0.7 * 0.3 * 0.7),
        (~first & ~second, 0.7**3),
    ):
        assert abs(share.float().mean() - expected) < 4 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("shape", [(5, 3, 8, 6), (5, 1, 1, 1)])
def test_rescaling_a_constant_estimate_leaves_it(shape):
    """It has no spread to rescale: black pictures are guided to black, not to NaN."""
    process, labels = NoiseProcess("cosine", 50), torch.zeros(shape[0], dtype=torch.long)

    def denoise(x_t, t, labels):
        return torch.full_like(x_t, -1.0) + labels.view(-1, 1, 1, 1) * 0.1

    guided = classifier_free(denoise, process, labels, torch.tensor([1]), 3.0, rescale=0.7)
    found = guided(torch.randn(shape, generator=seeded()), torch.full((shape[0],), 20))
    torch.testing.assert_close(found, torch.full(shape, -1.2))  # -0.9 + 3 (-1 + 0.9)
