"""Prioritised replay: who is drawn how often, to the last row."""

import pytest
import torch

from zoo.rl.off_policy.priorities import BLOCK, SMALLEST, Priorities, Sums, importance_weights

ROWS = 3 * BLOCK + 5  # the last block is not full


def made(errors, exponent=0.7, ranked=False):
    priorities = Priorities(ROWS, exponent, ranked)
    priorities.add(torch.arange(len(errors)))
    priorities.update(torch.arange(len(errors)), errors)
    return priorities


def some_errors(count=ROWS):
    return torch.rand(count, generator=torch.Generator().manual_seed(0)).double() * 3


def chi_square(rows, probabilities):
    counts = torch.bincount(rows, minlength=len(probabilities)).double()
    expected = len(rows) * probabilities
    return float(((counts - expected).square() / expected).sum())


def bound(count):
    """What chi-square of so many rows hardly ever exceeds: its mean, 4 deviations, and some for its skew."""
    return count - 1 + 4 * (2 * (count - 1)) ** 0.5 + 8


def test_rows_are_found_where_the_sum_of_weights_says():
    sums, weights = Sums(ROWS), some_errors()
    weights[::3] = 0  # of the ends of blocks too
    weights[-1] = 0
    sums.set(torch.arange(ROWS), weights)
    u = torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows, probabilities = sums.find(u)
    whole = weights.cumsum(0)
    expected = torch.searchsorted(whole, u * whole[-1], right=True)
    assert torch.equal(rows, expected)
    torch.testing.assert_close(probabilities, weights[rows] / weights.sum())
    # the ends of [0, 1), and both sides of every step of the running sums, where rounding decides
    edges = torch.cat([whole / whole[-1] + k * 2.0**-53 for k in (-2, -1, 0, 1, 2)])
    ends = torch.tensor([0.0, 2.0**-60, 1 - 2.0**-53], dtype=torch.float64)
    rows, probabilities = sums.find(torch.cat([edges, ends]).clamp(0, 1 - 2.0**-53))
    assert (weights[rows] > 0).all(), "a row of weight 0 is never drawn"
    assert (probabilities > 0).all()


@pytest.mark.parametrize("ranked", [False, True])
def test_frequencies_are_those_of_the_priorities(ranked):
    priorities, errors = made(some_errors(), ranked=ranked), some_errors()
    torch.manual_seed(0)
    rows, probabilities = priorities.draw(200_000)
    order = errors.argsort(descending=True)
    p = 1 / (1 + order.argsort().double()) if ranked else errors + SMALLEST
    expected = p**0.7 / (p**0.7).sum()
    torch.testing.assert_close(probabilities, expected[rows])
    assert chi_square(rows, expected) < bound(ROWS)


@pytest.mark.parametrize("ranked", [False, True])
def test_without_an_exponent_all_are_drawn_alike(ranked):
    priorities = made(some_errors(90), exponent=0.0, ranked=ranked)
    torch.manual_seed(0)
    rows, probabilities = priorities.draw(50_000)
    assert torch.equal(probabilities, torch.full((50_000,), 1 / 90, dtype=torch.float64))
    assert chi_square(rows, torch.full((90,), 1 / 90, dtype=torch.float64)) < bound(90)
    assert torch.equal(importance_weights(probabilities, 90, 0.4), torch.ones(50_000, dtype=torch.float64))


def test_a_row_without_an_error_is_drawn_again():
    priorities = made(torch.zeros(7, dtype=torch.float64))
    assert (priorities.sums.weights[:7] > 0).all()
    assert len(priorities.draw(500)[0].unique()) == 7
    assert priorities.draw(500)[0].max() < 7, "rows that are not there are never drawn"


def test_new_rows_have_the_largest_error_so_far_and_overwritten_ones_lose_theirs():
    priorities = made(torch.tensor([0.1, 5.0, 0.2], dtype=torch.float64), exponent=1.0)
    priorities.update(torch.tensor([1]), torch.tensor([0.3]))
    priorities.add(torch.tensor([0, 3]))  # over the first, and one more
    expected = torch.tensor([5.0, 0.3, 0.2, 5.0], dtype=torch.float64)
    torch.testing.assert_close(priorities.sums.weights[:4], expected + SMALLEST, rtol=1e-6, atol=0)
    assert priorities.size == 4
    fresh = Priorities(4, 1.0)
    fresh.add(torch.arange(2))
    assert fresh.errors[:2].tolist() == [1.0, 1.0], "before any error is known, all are alike"


def test_ranks_between_two_sortings_are_among_those_of_the_last():
    errors = torch.arange(8, 0, -1, dtype=torch.float64)
    priorities = made(errors, exponent=1.0, ranked=True)
    priorities.draw(1)  # sorts
    torch.testing.assert_close(priorities.sums.weights[:8], 1 / torch.arange(1, 9).double())
    priorities.update(torch.tensor([0, 7]), torch.tensor([2.5, 9.0]))
    # six of the last sorting exceed 2.5, none 9
    torch.testing.assert_close(priorities.sums.weights[[0, 7]], torch.tensor([1 / 7, 1.0]).double())
    priorities.update(torch.arange(6), torch.zeros(6))
    priorities.draw(1)  # as many changes as rows: sorts again
    assert sorted((1 / priorities.sums.weights[:8]).round().tolist()) == [*range(1, 9)]
    torch.testing.assert_close(priorities.sums.weights[[7, 6]], torch.tensor([1.0, 0.5]).double())


def test_weights_are_the_closed_form_and_take_the_bias_away():
    errors, size = some_errors(90), 90
    probabilities = errors / errors.sum()
    weights = importance_weights(probabilities.view(2, 45), size, 0.4)
    for row, of in zip(weights, probabilities.view(2, 45), strict=True):
        torch.testing.assert_close(row, (of.min() / of) ** 0.4)
        assert row.max() == 1
    # with beta 1, before they are divided by the largest: sum_i P_i w_i f_i is the plain mean of f
    largest = 1 / (size * probabilities.min())
    f = some_errors(90).square()
    mean = (probabilities * largest * importance_weights(probabilities, size, 1.0) * f).sum()
    torch.testing.assert_close(mean, f.mean())


@pytest.mark.parametrize("ranked", [False, True])
def test_restored_priorities_draw_the_same_rows(ranked):
    one, other = made(some_errors(), ranked=ranked), Priorities(ROWS, 0.7, ranked)
    for step in range(40):
        torch.manual_seed(step)
        rows, _ = one.draw(20)
        one.update(rows, torch.rand(20))
        one.add(torch.arange(step, step + 3))
    other.restore(one.state())
    for step in range(20):
        results = []
        for priorities in (one, other):
            torch.manual_seed(step)
            rows, probabilities = priorities.draw(30)
            priorities.update(rows, torch.rand(30))
            results.append((rows, probabilities))
        for mine, theirs in zip(*results, strict=True):
            assert torch.equal(mine, theirs), "to the bit"


def test_sums_do_not_drift():
    sums = Sums(ROWS)
    for step in range(300):
        torch.manual_seed(step)
        rows = torch.randint(ROWS, (40,)).unique()
        sums.set(rows, 10.0 ** torch.randint(-8, 8, (len(rows),)).double())
    assert torch.equal(sums.sums, sums.blocks.sum(1)), "no rounding of 12,000 changes is left"
