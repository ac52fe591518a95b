"""The restricted Boltzmann machine against sums over all its states, and one run from `fit` to samples."""

import math
from itertools import product

import pytest
import torch

from lightning_modules import RBM as Module
from tests import runs
from zoo.energy.rbm import RBM
from zoo.errors import UserError

SHAPE, HIDDEN = (1, 2, 3), 4


def model(seed: int = 0, hidden: int = HIDDEN) -> RBM:
    torch.manual_seed(seed)
    made = RBM(SHAPE, hidden=hidden).double()
    for parameter in made.parameters():
        parameter.data = 0.7 * torch.randn_like(parameter)
    return made


def every(count: int) -> torch.Tensor:
    return torch.tensor([*product([0.0, 1.0], repeat=count)], dtype=torch.float64)


def energies(made: RBM) -> torch.Tensor:
    """-E(v, h) of all states, (2^D, 2^H), from the definition."""
    v, h = every(6), every(HIDDEN)
    return (v @ made.visible_bias)[:, None] + h @ made.hidden_bias + v @ made.weight @ h.T


def test_the_free_energy_and_the_normaliser_are_sums_over_all_states():
    made = model()
    torch.testing.assert_close(-made.free_energy(every(6)), energies(made).logsumexp(1))
    torch.testing.assert_close(made.log_normaliser(), energies(made).flatten().logsumexp(0))
    images = (2 * every(6) - 1).view(-1, *SHAPE)
    assert made.log_likelihood(images).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_sums_in_blocks_are_the_same(monkeypatch):
    whole, drawn = model().log_normaliser(), model().sample(9, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("zoo.energy.rbm.BLOCK", 5)
    torch.testing.assert_close(model().log_normaliser(), whole)
    assert torch.equal(model().sample(9, generator=torch.Generator().manual_seed(0)), drawn)


def test_samples_and_gibbs_steps_keep_the_distribution():
    """Pearson's chi-square of 20,000 draws over 64 images, its 0.9999 quantile of 63 degrees being 113; also of these
    after three Gibbs steps, under which the distribution is stationary."""
    made, count = model(), 20_000
    expected = count * made.log_likelihood((2 * every(6) - 1).view(-1, *SHAPE)).exp()
    drawn = made.sample(count, generator=torch.Generator().manual_seed(0))
    v = (drawn.flatten(1) + 1) / 2
    with torch.no_grad():
        later = made.gibbs(v, 3, torch.Generator().manual_seed(1))
    assert (later != v).any(1).double().mean() > 0.5
    for states in (v, later):
        code = (states @ 2.0 ** torch.arange(5, -1, -1, dtype=torch.float64)).long()
        found = torch.bincount(code, minlength=64).double()
        assert ((found - expected).square() / expected).sum().item() < 113


def test_the_gradient_of_the_chain_is_that_of_the_likelihood():
    """Of F(v) - E F(v'), v' by all probabilities, against autograd through log Z."""
    made, v = model(), every(6)[[3, 17, 40]]
    exact = torch.autograd.grad((made.free_energy(v).mean() + made.log_normaliser()), [*made.parameters()])
    share = (energies(made).logsumexp(1) - made.log_normaliser()).exp().detach()
    difference = made.free_energy(v).mean() - (share * made.free_energy(every(6))).sum()
    for found, expected in zip(torch.autograd.grad(difference, [*made.parameters()]), exact, strict=True):
        torch.testing.assert_close(found, expected)


def test_persistent_chains_learn_what_is_there(monkeypatch):
    """Two patterns with a tenth of their pixels flipped: from -6 ln 2 to within 0.15 nats of their own probability."""
    torch.manual_seed(0)
    patterns = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]])
    flipped = torch.rand(1000, 6) < 0.1
    v = (patterns[torch.arange(1000) % 2] - flipped.float()).abs()
    x = 2 * v.view(-1, *SHAPE) - 1
    wrong = torch.stack([(v != pattern).sum(1) for pattern in patterns], 1)
    truth = (0.5 * 0.1**wrong * 0.9 ** (6 - wrong)).sum(1).log().mean().item()
    module = Module(SHAPE, 2, hidden=3, chains=200, steps=2)

    class Strategy:
        reduce = staticmethod(lambda x, reduce_op: x)

    class Trainer:
        global_step, log_every_n_steps, strategy = 0, 1000, Strategy

    monkeypatch.setattr(Module, "trainer", Trainer)
    optimizer = torch.optim.Adam(module.model.parameters(), lr=0.02)
    before = module.model.log_likelihood(x).mean().item()
    assert before == pytest.approx(-6 * math.log(2), abs=0.1)
    for Trainer.global_step in range(400):
        optimizer.zero_grad()
        module.training_step((x, torch.zeros(1000)), 0).backward()
        optimizer.step()
    assert module.model.log_likelihood(x).mean().item() == pytest.approx(truth, abs=0.15)


def test_a_run_starts_from_the_first_batch_and_only_from_that(monkeypatch):
    module = Module(SHAPE, 2, hidden=3, chains=5)

    class Strategy:
        reduce = staticmethod(lambda x, reduce_op: x)

    class Trainer:
        global_step, log_every_n_steps, strategy = 0, 1000, Strategy

    monkeypatch.setattr(Module, "trainer", Trainer)
    monkeypatch.setattr(type(module.model), "gibbs", lambda self, v, steps: v)
    v = torch.tensor([[1.0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1], [1, 0, 1, 0, 0, 1]])
    for Trainer.global_step, batch in ((0, v), (1, 1 - v)):
        module.training_step((2 * batch.view(-1, *SHAPE) - 1, torch.zeros(3)), 0)
        share = (v.sum(0) + 0.5) / 4
        torch.testing.assert_close(module.model.visible_bias.data, (share / (1 - share)).log())
        assert torch.equal(module.chain, v[[0, 1, 2, 0, 1]])


def test_a_sample_does_not_depend_on_how_many_follow():
    few, many = (model().sample(n, generator=torch.Generator().manual_seed(5)) for n in (3, 40))
    torch.testing.assert_close(few, many[:3])
    mean = model().sample(4000, generator=torch.Generator().manual_seed(0), expected=True).mean()
    drawn = model().sample(4000, generator=torch.Generator().manual_seed(0)).mean()
    assert (mean - drawn).abs() < 5 / (4000 * 6) ** 0.5


def test_mistakes_are_named():
    for call, text in (
        (lambda: RBM(SHAPE, 17), "levels must be 2, got 17: use data in black and white"),
        (lambda: RBM(SHAPE, hidden=17), "hidden must be from 1 to 16, got 17"),
        (lambda: model().sample(0), "n must be at least 1, got 0"),
        (lambda: model().sample(1, labels=torch.zeros(1)), "this model knows no classes"),
        (lambda: model().log_likelihood(torch.zeros(1, *SHAPE)), "images must hold 2 grey levels"),
        (lambda: Module(SHAPE, 2, steps=0), "model.steps must be at least 1, got 0"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_a_run_is_exported_samples_and_has_a_density(tmp_path, command):
    options = ("--config", "rbm-mnist5k", "--model.hidden", 4, "--data.batches_per_epoch", 2)
    folder = runs.fit(tmp_path / "run", *options, "--trainer.max_epochs", 1)
    exported = tmp_path / "mine"
    assert command("export", folder / "last.ckpt", exported).status == 0
    assert command("sample", exported, "--num-samples", 4, "--output", tmp_path / "x.npy").status == 0
    answer = command("density", exported, "--input", tmp_path / "x.npy", "--output", tmp_path / "nats.csv", "--json")
    assert answer.status == 0, answer.err
    assert "bits_per_dim" in answer.out
