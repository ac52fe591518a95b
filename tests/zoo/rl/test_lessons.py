import pytest
import torch

from zoo.rl.tabular.lessons import dueling_errors, left_share, overestimation, shaped_returns, updates_to_solve


@pytest.mark.parametrize("actions", [1, 2, 10])
def test_the_largest_estimate_is_biased_by_a_known_amount_and_another_one_is_not(actions):
    count = 40_000
    largest, other = overestimation(actions, count, torch.Generator().manual_seed(0))
    # a number in [-1, 1] has a standard deviation of at most 1: four standard errors of a mean
    assert abs(largest - (actions - 1) / (actions + 1)) < 4 / count**0.5
    assert abs(other) < 4 / count**0.5


def test_q_learning_makes_the_mistake_longer_than_double_q_learning():
    one, two = left_share(False, 100, 60), left_share(True, 100, 60)
    assert 0.3 < one[0] < 0.7, "as a coin says at first"
    assert sum(one[20:60]) / 40 > 0.8
    assert sum(two[60:]) / 40 < 0.3


def test_dueling_tables_share_what_they_learn_among_actions():
    one, two = (dueling_errors(20, dueling, 600, 4) for dueling in (False, True))
    assert one[0] == two[0], "both begin at 0"
    assert two[-1] < 0.2 * one[-1]
    assert dueling_errors(3, True, 4000, 2)[-1] < 1e-3, "and they learn Q itself"


def test_prioritised_replay_needs_a_tenth_of_the_updates_at_many_states():
    uniform, prioritized = (updates_to_solve(9, by, 0) for by in (False, True))
    assert prioritized * 6 < uniform < 40_000
    assert updates_to_solve(9, True, 0, most=100) == 100
    # one state: the buffer has one transition of each action, (3/4)^k of an error of about 1 is left after k of one
    assert 10 < updates_to_solve(1, False, 0) < 60


def test_a_potential_helps_unless_it_lives_on_after_the_end():
    best = 0.95**6
    plain, helped, broken = (shaped_returns(kind, 90, 6) for kind in ("none", "helps", "breaks"))
    assert helped[15:] == pytest.approx([best] * 75)
    assert plain[-1] == pytest.approx(best)
    assert sum(plain[:15]) < sum(helped[:15])
    assert broken[-1] < 0.3 * best
