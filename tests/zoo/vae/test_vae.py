"""The variational autoencoder: its bounds against exact marginals, its samples, and one run from `fit` to samples."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from lightning_modules import VAE as Module
from tests import runs
from zoo.errors import UserError
from zoo.vae.model import VAE

SHAPE, LEVELS = (1, 2, 3), 4


def model(latents: int = 2, seed: int = 0, **options) -> VAE:
    torch.manual_seed(seed)
    made = VAE(SHAPE, LEVELS, latents=latents, hidden=8, depth=1, dropout=0.5, **options).double().eval()
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def images(count: int, seed: int = 1) -> torch.Tensor:
    index = torch.randint(LEVELS, (count, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return index.double() * (2 / (LEVELS - 1)) - 1


def exact(made: VAE, x: torch.Tensor) -> torch.Tensor:
    """log int p(x | z) p(z) dz of one latent, by the trapezoidal rule."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        logs = made.decode(z).double().log_softmax(-1).flatten(1, -2)  # (Q, D, levels)
    index = ((x + 1) * ((LEVELS - 1) / 2)).round().long().flatten(1)  # (B, D)
    given = torch.stack([logs[:, torch.arange(made.dims), row].sum(1) for row in index])  # (B, Q)
    return (given + Normal(0.0, 1.0).log_prob(z[:, 0])).logsumexp(1) + math.log(18 / 4000)


def test_the_kl_divergence_is_that_of_two_normal_distributions():
    made, x = model(3), images(5)
    q = made.encode(x)
    found = made.elbo(x, torch.zeros(5, 3, dtype=torch.float64)).kl
    expected = kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(found, expected.to(found))


def test_one_draw_is_the_evidence_lower_bound_of_the_same_noise():
    """log p(x | z) + log p(z) - log q(z | x), with the densities of torch.distributions."""
    made, x = model(2), images(4)
    found = made.log_likelihood(x, generator=torch.Generator().manual_seed(3), draws=1)
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(3))
    q = made.encode(x)
    posterior = Independent(Normal(q.mean, q.log_std.exp()), 1)
    z = q.mean + q.log_std.exp() * noise
    prior = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1)
    expected = made.elbo(x, noise).log_likelihood + prior.log_prob(z) - posterior.log_prob(z)
    torch.testing.assert_close(found, expected.to(found))


def test_bounds_rise_with_the_draws_towards_the_exact_marginal():
    made, x = model(1), images(6)
    made.encoder[-1].weight.data *= 0.2  # close to the prior: the ratios of densities have light tails
    truth = exact(made, x)
    means = []
    for draws, repeats in ((1, 400), (10, 100), (500, 20)):
        found = [
            made.log_likelihood(x.repeat(repeats, 1, 1, 1), generator=torch.Generator().manual_seed(0), draws=draws)
        ]
        means.append(torch.stack(found).view(repeats, 6).mean(0))
    assert means[0].mean() < means[1].mean() < means[2].mean() < truth.mean() + 0.02
    torch.testing.assert_close(means[2], truth.to(means[2]), rtol=0, atol=0.2)
    assert (means[2] - truth).mean().abs() < 0.05


def test_a_flow_as_prior_is_a_density_whose_draws_and_bound_agree_with_it():
    """Against sums over a grid of 201 x 201 latents: of p(z), of p(x | z) p(z), and of the mean image."""
    made, x = model(2, prior_couplings=3), images(4)
    for parameter in made.prior.parameters():
        parameter.data *= 0.3  # its mass within the grid
    made.encoder[-1].weight.data.zero_()
    made.encoder[-1].bias.data = torch.tensor([0.0, 0, 2, 2]).double()  # q wider than the posterior
    axis = torch.linspace(-8, 8, 201, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_share = made.prior.log_prob(z) + 2 * math.log(16 / 200)
        assert log_share.exp().sum().item() == pytest.approx(1, abs=1e-3)
        assert (log_share.exp() @ z).abs().max() > 0.1  # it is not N(0, I)
        truth = torch.stack([(made._log_prob(row.expand(len(z), *SHAPE), z) + log_share).logsumexp(0) for row in x])
    found = made.log_likelihood(x, generator=torch.Generator().manual_seed(0), draws=1000)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.1)
    few = made.log_likelihood(x, generator=torch.Generator().manual_seed(1), draws=1)
    bound = made.elbo(x, torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double())
    torch.testing.assert_close(few, (bound.log_likelihood - bound.kl.sum(1)).detach(), rtol=0, atol=1e-5)
    drawn = made.sample(20_000, generator=torch.Generator().manual_seed(0)).mean(0)
    expected = (log_share.exp() @ made.mean_image(z).flatten(1)).view(SHAPE)
    torch.testing.assert_close(drawn.to(expected), expected, rtol=0, atol=5 / math.sqrt(20_000))


def test_a_flow_as_prior_starts_at_the_normal_distribution():
    torch.manual_seed(0)
    made, z = VAE(SHAPE, LEVELS, latents=5, hidden=8, depth=1, prior_couplings=4), torch.randn(7, 5)
    torch.testing.assert_close(made.prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))


@pytest.mark.parametrize("head", ["categorical", "logistic"])
def test_probabilities_of_all_images_sum_to_one(head):
    torch.manual_seed(2)
    small = VAE((1, 1, 2), 3, latents=1, hidden=8, depth=1, head=head, components=2).eval()
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(3)).float().view(9, 1, 1, 2) - 1
    total = small.log_likelihood(grid, generator=torch.Generator().manual_seed(0), draws=5000).exp().sum()
    assert total.item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("draws", [1, 7])
def test_a_decoder_that_ignores_its_latents_needs_no_draws(draws):
    """If q is the prior too, every draw gives the exact likelihood."""
    made, x = model(2), images(3)
    made.decoder[0].weight.data.zero_()
    made.encoder[-1].weight.data.zero_()
    made.encoder[-1].bias.data[:2] = 0
    made.encoder[-1].bias.data[2:] = math.log(math.expm1(1.0)) - 0.5  # sigma = softplus(raw + 0.5) = 1
    found = made.log_likelihood(x, generator=torch.Generator().manual_seed(0), draws=draws)
    expected = made.elbo(x, torch.zeros(3, 2, dtype=torch.float64)).log_likelihood
    torch.testing.assert_close(found, expected)


def test_samples_lie_on_the_grid_as_often_as_the_model_says():
    made = model(1)
    drawn = made.sample(
        20_000, noise=torch.full((20_000, 1), 0.4, dtype=torch.float64), generator=torch.Generator().manual_seed(0)
    )
    index = ((drawn + 1) * ((LEVELS - 1) / 2)).flatten(1)
    torch.testing.assert_close(index, index.round())
    share = torch.nn.functional.one_hot(index.round().long(), LEVELS).double().mean(0)
    with torch.inference_mode():
        probabilities = made.decode(torch.tensor([[0.4]], dtype=torch.float64)).softmax(-1)[0].flatten(0, 2)
    assert (share - probabilities).abs().max() < 4 * 0.5 / math.sqrt(20_000)
    expected = made.sample(1, noise=torch.full((1, 1), 0.4, dtype=torch.float64), expected=True)
    torch.testing.assert_close(expected.flatten(), drawn.double().mean(0).flatten(), rtol=0, atol=0.02)


def test_a_sample_does_not_depend_on_how_many_follow():
    one, many = (model().sample(n, generator=torch.Generator().manual_seed(5)) for n in (3, 40))
    torch.testing.assert_close(one, many[:3])


def test_mistakes_are_named():
    made = model()
    for call, text in (
        (lambda: made.sample(0), "n must be at least 1, got 0"),
        (lambda: made.sample(2, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: made.sample(2, noise=torch.zeros(2, 3)), r"noise must have the shape \(2, 2\), got \(2, 3\)"),
        (lambda: made.sample(2, labels=torch.tensor([1, 2])), "this model knows no classes"),
        (lambda: made.log_likelihood(images(2), draws=0), "draws must be at least 1, got 0"),
        (lambda: made.log_likelihood(images(2) + 0.1), "images must hold 4 grey levels"),
    ):
        with pytest.raises(UserError, match=text):
            call()
    with pytest.raises(UserError, match=r"model.beta must be at least 0, got -1"):
        Module(SHAPE, LEVELS, beta=-1)
    with pytest.raises(UserError, match=r"model.kl_target must be above 0 with a kl_target, got 0"):
        Module(SHAPE, LEVELS, kl_target=0)
    with pytest.raises(UserError, match="which a flow as prior mixes"):
        Module(SHAPE, LEVELS, prior_couplings=2, free_bits=0.1)
    with pytest.raises(UserError, match="leave beta_warmup_steps and free_bits at 0"):
        Module(SHAPE, LEVELS, kl_target=3.0, free_bits=0.1)
    with pytest.raises(UserError, match="downsamplings must leave whole pixels of 2 x 3, got 1"):
        VAE(SHAPE, LEVELS, downsamplings=1)
    with pytest.raises(UserError, match="levels must be at least 2"):
        VAE(SHAPE, 0)


def test_free_bits_and_beta(monkeypatch):
    """Free bits of 0 are the plain bound; a large allowance leaves the reconstruction alone."""

    class Trainer:
        global_step, log_every_n_steps = 0, 50

    def loss(**options):
        torch.manual_seed(0)
        module = Module(SHAPE, LEVELS, latents=2, hidden=8, depth=1, dropout=0.0, **options)
        monkeypatch.setattr(Module, "trainer", Trainer)
        torch.manual_seed(1)
        value = module.training_step((images(5).float(), torch.zeros(5)), 0)
        torch.manual_seed(1)
        bound = module.model.elbo(images(5).float(), torch.randn(5, 2))
        return value * module.model.dims, -bound.log_likelihood.mean(), bound.kl.sum(1).mean()

    total, reconstruction, kl = loss(beta=3.0)
    torch.testing.assert_close(total, reconstruction + 3 * kl)
    total, reconstruction, _ = loss(free_bits=100.0)
    torch.testing.assert_close(total, reconstruction + 200)


@pytest.mark.parametrize("target", [1.0, 3.0])
def test_beta_comes_to_rest_where_the_kl_divergence_is_the_target(monkeypatch, target):
    """Within 10 %, the spread of its last moves."""

    class Trainer:
        global_step, log_every_n_steps = 0, 10**6
        strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)

    monkeypatch.setattr(Module, "trainer", Trainer)
    torch.manual_seed(0)
    module = Module(SHAPE, LEVELS, latents=3, hidden=16, depth=1, dropout=0.0, kl_target=target)
    optimizer = torch.optim.Adam(module.model.parameters(), 5e-3)
    x = images(64).float()
    for _ in range(1000):
        optimizer.zero_grad()
        module.training_step((x, torch.zeros(64)), 0).backward()
        optimizer.step()
    kl = module.model.elbo(x, torch.zeros(64, 3)).kl.sum(1).mean().item()
    assert kl == pytest.approx(target, rel=0.1)


@pytest.mark.parametrize("shape", [(3, 4, 8), (1, 8, 4)])
def test_convolutions_read_and_make_images_of_any_channels(shape):
    torch.manual_seed(0)
    made = VAE(shape, LEVELS, latents=5, hidden=8, depth=1, downsamplings=2)
    x = torch.randint(LEVELS, (2, *shape)) * (2 / (LEVELS - 1)) - 1
    assert made(x).shape == (2, *shape, LEVELS)
    made.elbo(x, torch.randn(2, 5)).log_likelihood.sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize("downsamplings", [0, 1])
def test_a_run_is_exported_samples_and_has_a_density(tmp_path, command, downsamplings):
    options = ("--config", "vae-digits", "--trainer.default_root_dir", tmp_path / "run", "--model.hidden", 16)
    options += ("--model.downsamplings", downsamplings)
    folder = runs.fit(tmp_path / "run", *options, "--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    exported = tmp_path / "mine"
    assert command("export", folder / "last.ckpt", exported).status == 0
    assert command("sample", exported, "--num-samples", 4, "--output", tmp_path / "x.npy").status == 0
    answer = command("density", exported, "--input", tmp_path / "x.npy", "--output", tmp_path / "nats.csv", "--json")
    assert answer.status == 0, answer.err
    assert "bits_per_dim" in answer.out
    for kind in ("interpolation", "traversal"):
        assert command("figure", kind, exported, "--output", tmp_path / "x.png").status == 0
