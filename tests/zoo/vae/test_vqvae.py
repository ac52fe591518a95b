"""The vector-quantised autoencoder: its codebook, its bound against all codes, and runs from `fit` to samples."""

import math
from itertools import product

import pytest
import torch

from lightning_modules import VQVAE as Module
from lightning_modules import VQPrior
from tests import runs
from zoo.errors import UserError
from zoo.vae.codebook import Codebook, Lattice, digest, perplexity
from zoo.vae.vqvae import VQVAE

SHAPE, LEVELS = (2, 4, 6), 3


def model(seed: int = 0, shape=SHAPE, **options) -> VQVAE:
    torch.manual_seed(seed)
    small = {"codes": 3, "code_width": 4, "downsamplings": 1, "channels": 5, "depth": 1}
    small |= {"prior": "pixelcnn", "prior_width": 6, "prior_depth": 2}
    made = VQVAE(shape, LEVELS, **(small | options)).double().eval()
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def images(count: int, shape=SHAPE, seed: int = 1) -> torch.Tensor:
    return torch.randint(LEVELS, (count, *shape), generator=torch.Generator().manual_seed(seed)).double() - 1


def test_one_step_of_the_running_means_by_hand():
    book = Codebook(3, 2)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    book.sizes.copy_(torch.tensor([2.0, 4.0, 1.0]))
    book.sums.copy_(book.codes * book.sizes[:, None])
    z = torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 2.0]])
    assert book.nearest(z).tolist() == [0, 0, 1]
    assert book.update(z, decay=0.9, restart_below=0.0) == 0
    torch.testing.assert_close(book.sizes, torch.tensor([1.8 + 0.2, 3.6 + 0.1, 0.9]))
    expected = torch.tensor([[0.4 / 2.0, 0.2 / 2.0], [36.9 / 3.7, 0.2 / 3.7], [0.0, 10.0]])
    torch.testing.assert_close(book.codes, expected, rtol=0, atol=1e-5)  # float32, of sums up to 40


def test_without_memory_a_step_is_one_of_lloyds():
    torch.manual_seed(0)
    book, z = Codebook(4, 3), torch.randn(50, 3)
    index = book.nearest(z)
    assert index.unique().numel() == 4
    book.update(z, decay=0.0, restart_below=0.0)
    expected = torch.stack([z[index == j].mean(0) for j in range(4)])
    torch.testing.assert_close(book.codes, expected, rtol=0, atol=1e-4)


def test_a_dead_code_is_put_at_a_vector_of_the_batch_and_stays():
    """Twenty steps after it was killed it is in use; without restarts it never is."""
    for restart_below, in_use in ((0.5, True), (0.0, False)):
        torch.manual_seed(0)
        book = Codebook(8, 4)
        generator = torch.Generator().manual_seed(0)
        for _ in range(100):
            book.update(torch.randn(200, 4), 0.9, 0.5, generator)
        assert book.nearest(torch.randn(2000, 4)).unique().numel() == 8
        book.codes[5], book.sums[5], book.sizes[5] = 1000.0, 1e-4, 1e-7  # 1000 = 1e-4 / 1e-7
        restarts = [book.update(torch.randn(200, 4), 0.9, restart_below, generator) for _ in range(20)]
        assert restarts == [int(in_use)] + [0] * 19
        assert bool((book.nearest(torch.randn(2000, 4)) == 5).any()) == in_use
        assert (book.codes.norm(dim=1) < 5).all() == in_use


def test_the_first_batch_places_the_codes():
    """No code is left where it began, far from all vectors."""
    book, z = Codebook(16, 3), 100 + torch.randn(64, 3)
    assert book.update(z, 0.99, 0.5, torch.Generator().manual_seed(0)) >= 15
    assert (book.codes - 100).abs().max() < 10


def test_perplexity_counts_codes_that_are_in_use():
    assert perplexity(torch.tensor([5.0, 5.0, 0.0, 5.0])).item() == pytest.approx(3)
    assert perplexity(torch.tensor([0.0, 7.0])).item() == pytest.approx(1)


def test_the_gradient_passes_straight_through_the_codes():
    """The gradient at z is that of log p(x | k) at the code itself; no code and no size has one."""
    made, x = model(), images(3)
    z = made._encode(x).detach().requires_grad_()
    made._encode = lambda _: z
    found = made.quantised(x)
    (through,) = torch.autograd.grad(found.log_likelihood.sum(), z, retain_graph=True)
    codes = made.codebook(found.codes).detach().requires_grad_()
    given = made.head.log_prob(made.decode(codes), (x + 1).long()).sum()
    torch.testing.assert_close(through, torch.autograd.grad(given, codes)[0])
    assert through.abs().max() > 1e-3
    (pull,) = torch.autograd.grad(found.commitment.sum(), z)
    torch.testing.assert_close(pull, 2 * (z - codes).detach())


def test_codes_of_codes_are_themselves():
    made = model()
    index = torch.randint(3, (2, 2, 3))
    assert (made.codebook.nearest(made.codebook(index)) == index).all()


def test_probabilities_of_all_codes_sum_to_one_and_the_bound_is_one_term():
    """Over all 81 grids of codes: sum_k P(k) = 1, and P(x) = sum_k P(k) p(x | k) is above the bound."""
    made, x = model(shape=(1, 4, 4)), images(5, (1, 4, 4))
    every = torch.tensor([*product(range(3), repeat=4)]).view(81, 2, 2)
    with torch.no_grad():
        prior = made.log_prior(every)
        assert prior.exp().sum().item() == pytest.approx(1, abs=1e-10)
        parameters = made.decode(made.codebook(every))
        index = (x + 1).long()
        given = torch.stack(
            [made.head.log_prob(parameters, row.expand(81, 1, 4, 4)).flatten(1).sum(1) for row in index]
        )
        exact = (given + prior).logsumexp(1)
    bound = made.log_likelihood(x)
    assert (bound < exact).all()
    codes = made.encode(x)
    mine = (codes[:, None] == every).flatten(2).all(2).long().argmax(1)
    torch.testing.assert_close(bound, (given + prior)[torch.arange(5), mine])


def test_a_uniform_prior_costs_log_k_a_code():
    made = model(prior="uniform")
    torch.testing.assert_close(made.log_prior(torch.zeros(2, 2, 3).long()), torch.full((2,), -6 * math.log(3)))


def test_one_code_is_the_model_of_independent_pixels():
    """With K = 1 nothing passes, and the best decoder has each pixel's shares of grey levels: their entropy, 1e-3."""
    torch.manual_seed(0)
    x = torch.randint(LEVELS, (40, 1, 2, 2)).clamp(max=torch.tensor([2, 1, 2, 1]).view(1, 1, 2, 2)).double() - 1
    made = model(shape=(1, 2, 2), codes=1, prior="uniform")
    optimizer = torch.optim.LBFGS([made.background], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -made(x).mean()
        value.backward()
        return value

    optimizer.step(loss)
    shares = torch.nn.functional.one_hot((x + 1).long().flatten(1), LEVELS).double().mean(0)
    entropy = torch.special.entr(shares).sum()
    assert -made.log_likelihood(x).mean().item() == pytest.approx(entropy.item(), abs=1e-3)


def test_samples_are_as_frequent_as_they_are_probable():
    """20,000 draws of one pixel: P(x) summed over its three codes, within four standard errors."""
    shape, count = (1, 1, 1), 20_000
    made = model(shape=shape, downsamplings=0)
    drawn = made.sample(count, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        every = torch.arange(3).view(3, 1, 1)
        given = made.head.log_probs(made.decode(made.codebook(every))).exp().view(3, LEVELS)
        expected = made.log_prior(every).exp() @ given
    share = torch.nn.functional.one_hot((drawn.flatten() + 1).round().long(), LEVELS).double().mean(0)
    assert (share - expected).abs().max() < 4 * 0.5 / math.sqrt(count)
    mean = made.sample(count, generator=torch.Generator().manual_seed(0), expected=True).mean()
    assert mean.item() == pytest.approx(drawn.mean().item(), abs=0.03)


@pytest.mark.parametrize("prior", ["uniform", "pixelcnn"])
def test_a_sample_does_not_depend_on_how_many_follow(prior):
    made = model(prior=prior)
    few, many = (made.sample(n, generator=torch.Generator().manual_seed(5)) for n in (3, 40))
    torch.testing.assert_close(few, many[:3])
    assert many.shape == (40, *SHAPE)
    made.log_likelihood(many)  # on the grid


def test_mistakes_are_named():
    made = model()
    for call, text in (
        (lambda: made.sample(0), "n must be at least 1, got 0"),
        (lambda: made.sample(2, temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: made.sample(2, labels=torch.tensor([1, 2])), "this model knows no classes"),
        (lambda: model(prior="uniform").sample(2, labels=torch.tensor([1, 2])), "this model knows no classes"),
        (lambda: model(num_classes=3).sample(2), "labels must be given"),
        (lambda: made.log_likelihood(images(2) + 0.1), "images must hold 3 grey levels"),
        (lambda: model(downsamplings=2), "downsamplings must leave whole pixels of 4 x 6, got 2"),
        (lambda: model(prior="made"), "prior must be uniform or pixelcnn, got 'made'"),
        (lambda: model(codes=0), "must be positive"),
        (lambda: model(scalar_levels=(4, 1)), "scalar_levels must be at least 2 each"),
        (lambda: model(scalar_levels=(300, 300)), "scalar_levels must make at most 65536 codes"),
        (lambda: Module(SHAPE, LEVELS, commitment=-1), "model.commitment must be at least 0, got -1"),
        (lambda: Module(SHAPE, LEVELS, codebook_decay=1), "model.codebook_decay must be at least 0 and below 1, got 1"),
        (lambda: VQPrior(SHAPE, LEVELS, "made-digits"), "model.first_stage must be a VQ-VAE, got 'made-digits'"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_both_stages_run_and_a_prior_of_another_codebook_is_refused(tmp_path, command):
    short = ("--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    first = []
    for seed in (0, 1):
        options = ("--config", "vqvae-digits", "--model.channels", 8, "--seed_everything", seed, *short)
        folder = runs.fit(tmp_path / f"first-{seed}", *options)
        first.append(tmp_path / f"vqvae-{seed}")
        assert command("export", folder / "last.ckpt", first[-1]).status == 0
    prior = ("--config", "pixelcnn-vqvae-digits", "--model.prior_width", 8, *short, "--model.first_stage")
    folder = runs.fit(tmp_path / "second", *prior, first[0])
    whole = tmp_path / "whole"
    assert command("export", folder / "last.ckpt", whole).status == 0
    assert command("sample", whole, "--num-samples", 4, "--output", tmp_path / "x.npy").status == 0
    answer = command("density", whole, "--input", tmp_path / "x.npy", "--output", tmp_path / "nats.csv", "--json")
    assert answer.status == 0, answer.err
    assert "bits_per_dim" in answer.out
    found = command("fit", *prior, first[1], "--trainer.max_epochs", 2, "--ckpt_path", folder / "last.ckpt")
    assert found.status == 2
    assert "the checkpoint's prior is of the codes of" in found.err
    found = command("fit", *prior, whole)
    assert found.status == 2
    assert "has a prior already" in found.err


def test_digests_tell_codebooks_apart():
    codes = torch.randn(4, 2)
    assert digest([codes]) == digest([codes.clone()])
    assert digest([codes]) != digest([codes.flip(0)])


def test_a_run_with_a_lattice_and_its_prior(tmp_path, command):
    short = ("--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    first = runs.fit(tmp_path / "first", "--config", "vqvae-digits", "--model.scalar_levels", "[4,3]", *short)
    assert command("export", first / "last.ckpt", tmp_path / "vqvae").status == 0
    prior = ("--config", "pixelcnn-vqvae-digits", "--model.first_stage", tmp_path / "vqvae", *short)
    second = runs.fit(tmp_path / "second", *prior)
    assert command("export", second / "last.ckpt", tmp_path / "whole").status == 0
    assert command("sample", tmp_path / "whole", "--num-samples", 4, "--output", tmp_path / "x.npy").status == 0


@pytest.mark.parametrize("levels", [(3,), (4, 3, 2), (8, 5, 5, 5)])
def test_a_lattice_holds_each_point_of_its_grid_once_and_finds_it_again(levels):
    book, count = Lattice(levels), math.prod(levels)
    assert book.codes.shape == (count, len(levels))
    assert book.codes.unique(dim=0).shape == book.codes.shape
    for column, number in zip(book.codes.T, levels, strict=True):
        torch.testing.assert_close(column.unique(), torch.linspace(-1, 1, number))
    assert torch.equal(book.nearest(book.codes), torch.arange(count))
    z = 2 * torch.rand(3, 7, len(levels)) - 1
    assert torch.equal(book.nearest(z), torch.cdist(z, book.codes).argmin(-1))


def test_an_encoder_of_a_lattice_reaches_every_code_and_has_a_gradient():
    """Of z = tanh a, whatever a is: that of log p(x | k) at the code, times 1 - z^2."""
    made, x = model(scalar_levels=(4, 3)), images(3)
    assert made.codebook.nearest(torch.randn(1000, 2).tanh()).unique().numel() == made.num_codes == 12
    a = torch.randn(3, 2, 3, 2).double().requires_grad_()
    made._encode = lambda _: a.tanh()
    found = made.quantised(x)
    (through,) = torch.autograd.grad(found.log_likelihood.sum(), a)
    codes = made.codebook(found.codes).detach().requires_grad_()
    given = made.head.log_prob(made.decode(codes), (x + 1).long()).sum()
    expected = torch.autograd.grad(given, codes)[0] * (1 - a.tanh().square())
    torch.testing.assert_close(through, expected.detach())
