"""The generative stochastic network: its chain against enumerated transition matrices, and one run from `fit` on."""

from itertools import product

import pytest
import torch

from lightning_modules import GSN as Module
from tests import runs
from zoo.energy.gsn import GSN
from zoo.errors import UserError

LEVELS = 3
SHARES = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)  # of the grey levels in the data of one pixel


def states(dims: int) -> torch.Tensor:
    """All images of so many pixels in a row, (levels^dims, 1, 1, dims)."""
    return torch.tensor([*product(range(LEVELS), repeat=dims)]).double().view(-1, 1, 1, dims) - 1


def corruption(made: GSN, every: torch.Tensor) -> torch.Tensor:
    """C(x~ | x) of all pairs, from the definition: rows are x."""
    same = (every[:, None] == every).flatten(2).double()
    return (made.corruption / LEVELS + (1 - made.corruption) * same).prod(-1)


def transitions(made: GSN, every: torch.Tensor) -> torch.Tensor:
    """sum_x~ C(x~ | x) P(x' | x~) of all pairs: rows are x."""
    with torch.no_grad():
        posterior = torch.stack([made.log_prob(every, x[None].expand_as(every)) for x in every]).exp()
    return corruption(made, every) @ posterior


def test_the_data_are_stationary_under_the_exact_posterior():
    """P(x | x~) by Bayes' rule, put into the table that a perceptron of one pixel is at three inputs."""
    made, every = GSN((1, 1, 1), LEVELS, hidden=4, depth=1, corruption=0.6).double(), states(1)
    exact = SHARES[:, None] * corruption(made, every)  # rows x, columns x~
    made.network = Table((exact / exact.sum(0)).T.log())
    matrix = transitions(made, every)
    torch.testing.assert_close(matrix.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(SHARES @ matrix, SHARES)
    torch.testing.assert_close(SHARES[:, None] * matrix, (SHARES[:, None] * matrix).T)  # it is reversible


class Table(torch.nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[(x[:, 0] + 1).long()]


def test_a_trained_chain_comes_to_rest_at_the_data():
    """Shares of the grey levels within 0.02; the corruption of the last steps' 1,000 pixels moves them by 0.01."""
    torch.manual_seed(0)
    made = GSN((1, 1, 1), LEVELS, hidden=8, depth=1, corruption=0.6).double()
    x = states(1).repeat_interleave((1000 * SHARES).round().long(), dim=0)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    for _ in range(400):
        optimizer.zero_grad()
        (-made.log_prob(x, made.corrupt(x)).mean()).backward()
        optimizer.step()
    rest = torch.linalg.matrix_power(transitions(made, states(1)), 200)[0]
    torch.testing.assert_close(rest, SHARES, rtol=0, atol=0.02)


def test_samples_are_as_frequent_as_the_transition_matrix_says():
    """Pearson's chi-square of 20,000 chains of 3 transitions over 9 images; its 0.9999 quantile is 32."""
    torch.manual_seed(1)
    made, every, count = GSN((1, 1, 2), LEVELS, hidden=8, depth=1, corruption=0.4).double(), states(2), 20_000
    for parameter in made.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    expected = count * torch.linalg.matrix_power(transitions(made, every), 3).mean(0)
    drawn = made.sample(count, generator=torch.Generator().manual_seed(0), transitions=3).flatten(1) + 1
    found = torch.bincount((drawn @ torch.tensor([3.0, 1.0]).double()).round().long(), minlength=9)
    assert (expected - count / 9).abs().max() > 100  # far from where the chains start
    assert ((found - expected).square() / expected).sum().item() < 32


def test_a_sample_does_not_depend_on_how_many_follow():
    torch.manual_seed(0)
    made = GSN((1, 2, 3), LEVELS, hidden=8, depth=1)
    few, many = (made.sample(n, generator=torch.Generator().manual_seed(5), transitions=4) for n in (3, 40))
    torch.testing.assert_close(few, many[:3])


def test_mistakes_are_named():
    made = GSN((1, 2, 3), LEVELS, hidden=8, depth=1)
    for call, text in (
        (lambda: GSN((1, 2, 3), LEVELS, corruption=1.0), "corruption must be above 0 and below 1, got 1.0"),
        (lambda: GSN((1, 2, 3), LEVELS, hidden=0), "must be positive"),
        (lambda: made.sample(0), "n must be at least 1, got 0"),
        (lambda: made.sample(1, transitions=0), "transitions must be at least 1, got 0"),
        (lambda: made.sample(1, labels=torch.zeros(1)), "this model knows no classes"),
        (lambda: Module((1, 2, 3), LEVELS, augmentation=-1), "model.augmentation must be at least 0, got -1"),
    ):
        with pytest.raises(UserError, match=text):
            call()


def test_a_run_is_exported_and_samples(tmp_path, command):
    options = ("--config", "gsn-digits", "--model.hidden", 16, "--data.batches_per_epoch", 2, "--trainer.max_epochs", 1)
    folder = runs.fit(tmp_path / "run", *options)
    exported = tmp_path / "mine"
    assert command("export", folder / "last.ckpt", exported).status == 0
    answer = command(
        "sample", exported, "--num-samples", 4, "--transitions", 3, "--output", tmp_path / "x.npy", "--json"
    )
    assert answer.status == 0, answer.err
