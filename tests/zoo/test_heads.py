"""Heads: probabilities over the levels sum to one, agree with closed forms, and have gradients at the extremes."""

import math

import pytest
import torch

from zoo.errors import UserError
from zoo.heads import Bernoulli, Categorical, LogisticMixture, draw, head, mean, sample

DOUBLE = torch.float64


HEADS = [
    pytest.param(Bernoulli(), id="bernoulli"),
    *[pytest.param(Categorical(levels), id=f"categorical{levels}") for levels in (2, 17, 256)],
    *[pytest.param(LogisticMixture(levels, 3), id=f"logistic{levels}") for levels in (2, 17, 256)],
]


@pytest.mark.parametrize("made", HEADS)
def test_probabilities_sum_to_one_and_both_forms_agree(made):
    parameters = 3 * torch.randn(4, 5, made.num_parameters, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = made.log_probs(parameters)
    assert found.shape == (4, 5, made.levels)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(4, 5, dtype=DOUBLE))
    for level in {0, 1, made.levels // 2, made.levels - 1}:
        torch.testing.assert_close(made.log_prob(parameters, torch.full((4, 5), level)), found[..., level])


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("log_scale", [-20.0, -7.0, -4.0, -1.0, 2.0, 20.0])
@pytest.mark.parametrize("mean", [-50.0, -1.0, 0.03, 1.0, 50.0])
def test_a_logistic_sums_to_one_in_single_precision_however_narrow_or_far(levels, log_scale, mean):
    made = LogisticMixture(levels, 1)
    parameters = torch.tensor([0.0, mean, log_scale], requires_grad=True)
    found = made.log_probs(parameters)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), parameters)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("made", HEADS)
def test_gradients_are_finite_at_the_edges_and_far_from_the_data(made):
    for size in (1e-6, 1.0, 40.0, 1e4):
        parameters = (size * torch.tensor([[1.0], [-1.0]])).repeat(1, made.num_parameters).requires_grad_()
        for level in (0, made.levels - 1):
            (gradient,) = torch.autograd.grad(made.log_prob(parameters, torch.full((2,), level)).sum(), parameters)
            assert gradient.isfinite().all()


def test_a_logistic_is_the_integral_of_its_density_over_the_bins():
    """The inner bins against torch's own distribution function; the tails belong to the outer bins."""
    levels, mean, log_scale = 9, 0.2, -1.3
    made = LogisticMixture(levels, 1)
    found = made.log_probs(torch.tensor([0.7, mean, log_scale], dtype=DOUBLE)).exp()
    edges = torch.linspace(-1, 1, levels, dtype=DOUBLE)[:-1] + 1 / (levels - 1)
    below = torch.sigmoid((edges - mean) / math.exp(log_scale))
    expected = torch.cat([below, torch.ones(1, dtype=DOUBLE)]) - torch.cat([torch.zeros(1, dtype=DOUBLE), below])
    torch.testing.assert_close(found, expected)


def test_a_mixture_weighs_its_components():
    one, two = LogisticMixture(5, 1), LogisticMixture(5, 2)
    a, b = torch.tensor([0.0, -0.4, -1.0], dtype=DOUBLE), torch.tensor([0.0, 0.6, -2.0], dtype=DOUBLE)
    both = torch.stack([torch.tensor([0.3, 0.7], dtype=DOUBLE).log(), *torch.stack([a, b], 1)[1:]]).flatten()
    expected = 0.3 * one.log_probs(a).exp() + 0.7 * one.log_probs(b).exp()
    torch.testing.assert_close(two.log_probs(both).exp(), expected)


def test_a_bernoulli_is_a_categorical_of_two_levels():
    logit = torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    categorical = Categorical(2).log_probs(torch.cat([torch.zeros_like(logit), logit], 1))
    torch.testing.assert_close(Bernoulli().log_probs(logit), categorical)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_levels_are_drawn_as_often_as_they_are_probable(temperature):
    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.5], dtype=DOUBLE)
    count = 40_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    drawn = draw(probabilities.log().expand(count, 4), uniform, temperature)
    share = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
    expected = probabilities ** (1 / temperature)
    expected /= expected.sum()
    assert share[1] == 0  # an impossible level is never drawn
    assert (share - expected).abs().max() < 4 * 0.5 / math.sqrt(count)  # four standard errors
    ends = draw(probabilities.log().expand(2, 4), torch.tensor([1e-300, 1.0], dtype=DOUBLE))
    assert ends.tolist() == [0, 3]


@pytest.mark.parametrize("made", HEADS)
def test_the_mean_is_that_of_all_probabilities(made):
    parameters = 3 * torch.randn(4, 5, made.num_parameters, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    expected = made.log_probs(parameters).exp() @ torch.arange(made.levels, dtype=DOUBLE)
    torch.testing.assert_close(mean(made, parameters), expected)


def test_mistakes_are_named():
    for arguments, text in (
        (("gaussian", 17), "head must be one of bernoulli, categorical, logistic, got 'gaussian'"),
        (("bernoulli", 17), "head 'bernoulli' is for 2 grey levels, and the data has 17"),
        (("categorical", 0), "levels must be at least 2, got 0"),
        (("logistic", 17, 0), "components must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=text):
            head(*arguments)


@pytest.mark.parametrize("made", HEADS)
def test_a_level_by_bisection_is_the_one_by_all_probabilities(made):
    """At 3,000 uniform numbers, those next to 0 and 1 among them; in float64 no two sums differ by rounding here."""
    generator = torch.Generator().manual_seed(0)
    parameters = 2 * torch.randn(3000, made.num_parameters, generator=generator, dtype=DOUBLE)
    uniform = torch.rand(3000, generator=generator, dtype=DOUBLE)
    uniform[:2] = torch.tensor([1e-12, 1 - 1e-12])
    found = sample(made, parameters, uniform)
    assert torch.equal(found, draw(made.log_probs(parameters), uniform))
    assert found.min() == 0
    assert found.max() == made.levels - 1
    cold = sample(made, parameters, uniform, temperature=1e-6)
    assert torch.equal(cold, made.log_probs(parameters).argmax(-1))
