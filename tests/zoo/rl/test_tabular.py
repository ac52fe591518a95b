"""Tables: planning against linear algebra, learning against closed forms, and the places where ends matter."""

import itertools

import pytest
import torch
from torch.nn.functional import one_hot

from zoo.errors import UserError
from zoo.rl.tabular.learning import (
    LEARNERS,
    Learner,
    double_q_learning,
    monte_carlo,
    monte_carlo_every_visit,
    sarsa,
    td0,
)
from zoo.rl.tabular.mdp import MDP, epsilon_greedy, greedy, policy_iteration, value_iteration
from zoo.rl.tabular.simulator import Simulator
from zoo.rl.tabular.table import Table

GAMMA = 0.9


def random_mdp(states=7, actions=3, outcomes=4, seed=0):
    """Every outcome of every pair goes somewhere of its own; a fifth of them terminate."""
    generator = torch.Generator().manual_seed(seed)
    shape = states, actions, outcomes
    probabilities = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    return MDP(
        probabilities / probabilities.sum(-1, keepdim=True),
        torch.randint(states, shape, generator=generator),
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.rand(shape, generator=generator) < 0.2,
        torch.full((states,), 1 / states, dtype=torch.float64),
    )


def listed_mdp(rows, start=0):
    """An MDP from [s][a] = [(probability, next state, reward, terminated), ...]."""
    most = max(len(found) for row in rows for found in row)
    padded = [[found + [(0.0, 0, 0.0, False)] * (most - len(found)) for found in row] for row in rows]
    probabilities, next_states, rewards, terminated = torch.tensor(padded, dtype=torch.float64).unbind(-1)
    first = one_hot(torch.tensor(start), len(rows)).double()
    return MDP(probabilities, next_states.long(), rewards, terminated.bool(), first)


def chain(stay=0.75):
    """One state that earns 1 and stays with probability `stay`: its undiscounted return is 1 / (1 - stay)."""
    return listed_mdp([[[(stay, 0, 1.0, False), (1 - stay, 0, 1.0, True)]]])


def learner_of(mdp, **options):
    zeros = torch.zeros(mdp.probabilities.shape[:2])
    defaults = {"gamma": GAMMA, "epsilon": 0.3, "step_size": 1.0, "step_power": 0.8}
    return Learner(zeros, zeros, zeros.long(), **defaults | options)


def brute_return(mdp, policy, gamma, steps):
    """sum_t gamma^t E[r_t], by matrices written out from the definition with loops."""
    states, actions, outcomes = mdp.probabilities.shape
    weight, total = mdp.start.clone(), 0.0
    for t in range(steps):
        after = torch.zeros(states, dtype=torch.float64)
        for s, a, k in itertools.product(range(states), range(actions), range(outcomes)):
            p = weight[s] * policy[s, a] * mdp.probabilities[s, a, k]
            total += gamma**t * p * mdp.rewards[s, a, k]
            if not mdp.terminated[s, a, k]:
                after[mdp.next_states[s, a, k]] += p
        weight = after
    return float(total)


def test_the_exact_return_is_the_sum_over_all_paths():
    mdp = random_mdp(4, 2, 3)
    policy = torch.rand(4, 2, dtype=torch.float64).softmax(1)
    assert mdp.expected_return(policy, GAMMA, limit=5) == pytest.approx(brute_return(mdp, policy, GAMMA, 5), abs=1e-12)
    # 120 steps: a fifth of the episodes ends in each, and 0.72^120 is 8e-18
    assert mdp.expected_return(policy, GAMMA) == pytest.approx(brute_return(mdp, policy, GAMMA, 120), abs=1e-10)
    assert mdp.expected_return(policy) == pytest.approx(mdp.expected_return(policy, limit=10_000), abs=1e-10)


def test_visits_times_rewards_are_the_return():
    mdp = random_mdp()
    policy = torch.rand(7, 3, dtype=torch.float64).softmax(1)
    _, rewards = mdp.chain(policy)
    visits = mdp.visitation(policy, GAMMA)
    assert float(visits @ rewards) == pytest.approx(mdp.expected_return(policy, GAMMA), abs=1e-12)
    lasting = mdp._replace(terminated=torch.zeros_like(mdp.terminated))
    assert float(lasting.visitation(policy, GAMMA).sum()) == pytest.approx(1 / (1 - GAMMA), abs=1e-10)


def test_value_iteration_is_policy_iteration_is_the_best_of_all_policies():
    mdp = random_mdp(5, 2, 3)
    q, _ = value_iteration(mdp, GAMMA)
    q_pi, actions, _ = policy_iteration(mdp, GAMMA)
    best = torch.stack(
        [
            mdp.values(one_hot(torch.tensor(chosen), 2).double(), GAMMA)
            for chosen in itertools.product(range(2), repeat=5)
        ]
    ).amax(0)
    assert torch.allclose(q.amax(1), best, atol=1e-10)  # 1e-12 / (1 - gamma)
    assert torch.allclose(q_pi, q, atol=1e-10)
    assert torch.equal(actions, q.argmax(1))
    # the linear solve of the greedy policy is the fixed point
    assert torch.allclose(mdp.values(greedy(q), GAMMA), q.amax(1), atol=1e-10)


def test_a_sweep_brings_any_two_tables_closer_by_gamma():
    mdp = random_mdp()
    one, other = torch.randn(2, 7, dtype=torch.float64)
    for _ in range(20):
        after = [mdp.backup(values, GAMMA).amax(1) for values in (one, other)]
        assert (after[0] - after[1]).abs().max() <= GAMMA * (one - other).abs().max() + 1e-15
        one, other = after


def test_policy_iteration_keeps_ties_and_counts_the_confirming_round():
    same = listed_mdp([[[(1.0, 0, 1.0, True)], [(1.0, 0, 1.0 + 1e-12, True)]]])
    _, actions, rounds = policy_iteration(same, GAMMA)
    assert (actions.tolist(), rounds) == ([0], 1)
    better = listed_mdp([[[(1.0, 0, 1.0, True)], [(1.0, 0, 2.0, True)]]])
    _, actions, rounds = policy_iteration(better, GAMMA)
    assert (actions.tolist(), rounds) == ([1], 2)


def test_an_undiscounted_policy_that_never_ends_has_no_value():
    loop = listed_mdp([[[(1.0, 1, -1.0, False)]], [[(1.0, 1, -1.0, False)]], [[(1.0, 0, -1.0, True)]]])
    values = loop.values(torch.ones(3, 1, dtype=torch.float64), 1.0)
    assert values.isnan().tolist() == [True, True, False]
    assert values[2] == -1
    assert loop.expected_return(torch.ones(3, 1, dtype=torch.float64), limit=50) == -50


def test_too_many_states_for_a_dense_system_are_refused_before_they_are_allocated():
    states = 30_000
    many = MDP(*(torch.zeros(states, 1, 1),) * 4, torch.zeros(states))
    with pytest.raises(UserError, match="30,000 states take 7 GB"):
        many.values(torch.ones(states, 1), GAMMA)


def test_the_best_exploring_policy_is_the_optimum_of_the_exploring_process():
    mdp, epsilon = random_mdp(4, 2, 3), 0.3
    q, _ = value_iteration(mdp.exploring(epsilon), GAMMA)
    returns = [
        mdp.expected_return((1 - epsilon) * one_hot(torch.tensor(chosen), 2).double() + epsilon / 2, GAMMA)
        for chosen in itertools.product(range(2), repeat=4)
    ]
    assert mdp.expected_return(epsilon_greedy(q, epsilon), GAMMA) == pytest.approx(max(returns), abs=1e-10)


def test_a_potential_shifts_action_values_and_keeps_what_is_optimal():
    mdp = random_mdp()
    potential = torch.randn(7, dtype=torch.float64)
    q, *_ = policy_iteration(mdp, GAMMA)
    shaped, *_ = policy_iteration(mdp.shaped(potential, GAMMA), GAMMA)
    assert torch.allclose(shaped, q - potential[:, None], atol=1e-13)
    # a potential of the end is a reward for ending: it changes the values by more than a shift
    broken, *_ = policy_iteration(mdp.shaped(potential, GAMMA, terminal=5.0), GAMMA)
    assert not torch.equal(broken.argmax(1), q.argmax(1))


# --------------------------------------------------------------------------------------------------------- learning


def test_the_simulator_draws_what_the_arrays_say():
    mdp = random_mdp(1, 2, 3)._replace(rewards=torch.arange(6, dtype=torch.float64).view(1, 2, 3))
    world, counts = Simulator(mdp, limit=10**9, seed=0), [0] * 6
    for draw in range(20_000):
        world.reset()
        counts[int(world.step(draw % 2)[1])] += 1  # the reward names the outcome
    shares = torch.tensor(counts).view(1, 2, 3) / 10_000
    assert torch.allclose(shares, mdp.probabilities.float(), atol=0.02)  # 4 standard deviations


def test_the_simulator_truncates_at_its_limit_but_not_where_the_episode_terminates():
    endless = listed_mdp([[[(1.0, 0, 1.0, False)], [(1.0, 0, 1.0, True)]]])
    world = Simulator(endless, limit=2, seed=0)
    world.reset()
    assert world.step(0)[2:] == (False, False)
    assert world.step(0)[2:] == (False, True)
    world.reset()
    world.step(0)
    assert world.step(1)[2:] == (True, False)


def test_averages_of_returns_match_their_closed_form():
    # sum_k gamma^k stay^k = 1 / (1 - gamma stay); first visit: an average over episodes
    mdp, expected = chain(0.75), 1 / (1 - GAMMA * 0.75)
    for learn in (monte_carlo, monte_carlo_every_visit, td0):
        learner = learner_of(mdp, step_power=0.8 if learn is td0 else 1.0)  # TD with 1 / n forgets its beginning slowly
        learn(learner, Simulator(mdp, 10**9, seed=1), 20_000)
        assert learner.q[0][0] == pytest.approx(expected, abs=0.1), learn.__name__  # 5,000 episodes: deviation 0.03


def test_first_visit_is_unbiased_and_every_visit_is_not():
    """One episode of N steps, gamma 1: first visit says N; every visit the mean of N, ..., 1, which is (1 + N) / 2."""
    mdp, stay, means = chain(0.5), 0.5, []
    for learn in (monte_carlo, monte_carlo_every_visit):
        world, values = Simulator(mdp, 10**9, seed=2), []
        for _ in range(2000):
            learner = learner_of(mdp, gamma=1.0, step_power=1.0)
            while not learner.episodes:
                learn(learner, world, 1)
            values.append(learner.q[0][0])
        means.append(sum(values) / len(values))
    assert means[0] == pytest.approx(1 / (1 - stay), abs=0.13)  # 4 standard deviations of a mean of N
    assert means[1] == pytest.approx((1 + 1 / (1 - stay)) / 2, abs=0.07)


def test_a_truncated_episode_bootstraps_and_a_terminated_one_does_not():
    """Reward 1 a step for ever: truncated after 3 steps it is still worth 1 / (1 - gamma) = 10."""
    lasting = listed_mdp([[[(1.0, 0, 1.0, False)]]])
    ending = listed_mdp([[[(1.0, 0, 1.0, True)]]])
    for method, learn in LEARNERS.items():
        learner = learner_of(lasting, step_power=0.0, step_size=0.5)
        learn(learner, Simulator(lasting, 3, seed=0), 3000)
        assert learner.q[0][0] == pytest.approx(10, abs=1e-6), method
        learner = learner_of(ending, step_power=0.0)
        learn(learner, Simulator(ending, 3, seed=0), 30)
        assert learner.q[0][0] == 1, method
        assert learner.episodes == [(1.0, 1)] * 30


def test_all_pairs_with_whole_steps_give_the_optimum_in_as_many_sweeps_as_the_chain_is_long():
    """A corridor of 6: Q-learning on every pair in turn is value iteration, exact after seven sweeps."""
    last = 5
    rows = [[[(1.0, max(s - 1, 0), -1.0, False)], [(1.0, min(s + 1, last), -1.0, s == last)]] for s in range(6)]
    mdp = listed_mdp(rows)
    q, _ = value_iteration(mdp, 1.0)
    learner = learner_of(mdp, gamma=1.0)
    for _ in range(7):  # the pair that needs longest, left at the left end, has a path of seven steps
        for s, a in itertools.product(range(6), range(2)):
            _, after, reward, terminated = rows[s][a][0]
            learner.move(learner.q[s], s, a, reward if terminated else reward + max(learner.q[after]))
            learner.visits[s][a] = 0  # each step is the first: a whole one
    learned = torch.tensor(learner.q, dtype=torch.float64)
    assert torch.equal(learned, q)


@pytest.mark.parametrize("method", ["q_learning", "double_q_learning", "sarsa"])
def test_control_finds_the_optimum_of_a_random_process(method):
    mdp, epsilon, gamma = random_mdp(4, 2, 3, seed=3), 0.3, 0.5
    learner = learner_of(mdp, epsilon=epsilon, gamma=gamma)
    LEARNERS[method](learner, Simulator(mdp, 10**9, seed=0), 40_000)
    q, second, visits = learner.tensors()
    assert visits.sum() == 40_000
    optimum, _ = value_iteration(mdp.exploring(epsilon) if method == "sarsa" else mdp, gamma)
    if method == "sarsa":  # the values of the policy itself, not of the process whose actions may be replaced
        optimum = mdp.action_values(epsilon_greedy(optimum, epsilon), gamma)
    for table in (q, second) if method == "double_q_learning" else (q,):
        assert torch.allclose(table, optimum, atol=0.15)  # steps of 1 / 3,000^0.8 and rewards of deviation 1: 0.03


def test_sarsa_updates_by_the_action_that_it_takes_next():
    """Scripted: the target of the update is r + gamma Q(s', a') of exactly the next action."""
    mdp = random_mdp(5, 3, 2)
    learner, world, seen = learner_of(mdp, step_power=0.0), Simulator(mdp, 10**9, seed=0), []
    plain = world.step
    world.step = lambda action: seen.append(action) or plain(action)
    for _ in range(200):
        sarsa(learner, world, 1)
        if learner.state is not None:
            planned = learner.action
            sarsa(learner, world, 1)
            assert seen[-1] == planned


def test_double_q_learning_values_an_action_by_the_other_table():
    mdp = listed_mdp([[[(1.0, 1, 0.0, False)], [(1.0, 1, 0.0, False)]], [[(1.0, 0, 0.0, True)], [(1.0, 0, 0.0, True)]]])
    q = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    second = torch.tensor([[0.0, 0.0], [2.0, 7.0]])
    for seed in range(20):
        learner = Learner(
            q, second, torch.zeros(2, 2).long(), gamma=0.5, epsilon=1.0, step_size=1.0, step_power=0, seed=seed
        )
        double_q_learning(learner, Simulator(mdp, 9, seed=0), 1)
        moved = {round(x, 9) for x in [*learner.q[0], *learner.second[0]]} - {0.0}
        assert moved == {0.5 * 2.0} or moved == {0.5 * 1.0}  # A chooses 0, B says 2; B chooses 1, A says 1


def test_equal_actions_are_drawn_alike_and_the_first_one_is_judged():
    learner = learner_of(random_mdp(1, 4, 1), epsilon=0.0)
    drawn = [learner.choose([1.0, 3.0, 3.0, 0.0]) for _ in range(2000)]
    assert {*drawn} == {1, 2}
    assert 900 < drawn.count(1) < 1100  # standard deviation 22
    q = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    assert greedy(q).tolist() == [[0, 1, 0, 0]]
    assert epsilon_greedy(q, 0.2).tolist() == [pytest.approx([0.05, 0.45, 0.45, 0.05])]


def left_or_right(arms=10, mean=-0.1, deviation=1.0):
    """Sutton and Barto 2018, example 6.7: right ends with 0, left leads to actions whose rewards have a mean of -0.1.

    Their normal rewards are mean +- deviation here, each with probability 1/2.
    """
    noisy = [[(0.5, 0, mean - deviation, True), (0.5, 0, mean + deviation, True)]] * arms
    left, right = [(1.0, 1, 0.0, False)], [(1.0, 0, 0.0, True)]
    return listed_mdp([[left] + [right] * (arms - 1), noisy])  # every "right" is the same


def test_q_learning_overestimates_a_maximum_over_noise_and_double_q_learning_does_not():
    """The share of "left" within 300 episodes, over 80 runs; "left" is the worse action."""
    mdp, shares, at_left = left_or_right(), {}, {}
    for method in ("q_learning", "double_q_learning"):
        lefts = total = 0
        value = 0.0
        for run in range(80):
            learner = learner_of(mdp, gamma=1.0, epsilon=0.1, step_size=0.1, step_power=0.0, seed=run)
            LEARNERS[method](learner, Simulator(mdp, 10**9, seed=run), 300)
            lefts += sum(length == 2 for _, length in learner.episodes)
            total += len(learner.episodes)
            q, second, _ = learner.tensors()
            value += float(q[0, 0] if method == "q_learning" else (q + second)[0, 0] / 2) / 80
        shares[method], at_left[method] = lefts / total, value
    assert at_left["q_learning"] > 0 > -0.1 + 1e-9 > at_left["double_q_learning"] - 0.15
    assert shares["q_learning"] > 2 * shares["double_q_learning"]


# ------------------------------------------------------------------------------------------------------------ model


def test_a_table_acts_greedily_or_explores_with_ties_at_random():
    table = Table((3,), (4,), epsilon=0.2)
    with torch.no_grad():
        table.q.copy_(torch.tensor([[0.0, 2, 2, 1], [5, 0, 0, 0], [0, 0, 0, 1]]))
    states = torch.eye(3)
    assert table.act(states).tolist() == [1, 0, 3]
    assert table.act(torch.tensor(2)).item() == 3  # a single whole number is a state
    drawn = table.act(states[:1].expand(20_000, 3), explore=True, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert torch.allclose(shares, torch.tensor([0.05, 0.45, 0.45, 0.05]), atol=0.015)  # 4 standard deviations


def test_a_table_is_of_one_state_and_one_action():
    with pytest.raises(ValueError, match="one state and one action"):
        Table((3, 2), (4,))
    with pytest.raises(ValueError, match="epsilon"):
        Table((3,), (4,), epsilon=2)
