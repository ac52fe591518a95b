"""Methods on matrix games, with tables: what an additive and a monotone value cannot, and the others find."""

import pytest
import torch

from zoo.teams.payoffs import additive_fit, payoff
from zoo.teams.tabular import fit_tables

SEEDS = range(4)


def fit(method, game, updates, learning_rate=0.03):
    return fit_tables(method, payoff(game).repeat(len(SEEDS), 1, 1), SEEDS, updates, learning_rate)


def test_vdn_learns_the_additive_fit():
    found = fit("vdn", "qtran", 800)
    # Adam has not come to rest
    torch.testing.assert_close(found.total, additive_fit(payoff("qtran")).expand(4, 3, 3), rtol=0, atol=0.05)
    assert (found.payoffs < 8).all()


@pytest.mark.parametrize(("method", "updates", "finds"), [("qmix", 600, False), ("cw-qmix", 600, True)])
def test_who_finds_the_optimum_of_qtrans_game(method, updates, finds):
    found = fit(method, "qtran", updates)
    assert torch.equal(found.payoffs == 8, torch.full((4,), finds))


def test_all_find_it_where_the_payoff_is_additive():
    for method in ("vdn", "qmix"):
        assert (fit(method, "monotonic", 400).payoffs == 5).all(), method


def test_each_copy_is_the_run_of_its_seed_and_game():
    games = torch.stack([payoff("qtran"), payoff("climbing")])
    together = fit_tables("resq", games, [3, 5], 20)
    alone = fit_tables("resq", games[1:], [5], 20)
    torch.testing.assert_close(together.total[1:], alone.total, rtol=1e-4, atol=1e-5)  # rounding depends on the batch
