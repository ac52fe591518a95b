"""Small processes that show what a method is for: double estimators, dueling, prioritised replay, potentials."""

import random
import statistics

import torch

from zoo.rl.off_policy.priorities import Priorities
from zoo.rl.off_policy.q_network import dueling_values
from zoo.rl.tabular.learning import Learner, double_q_learning, q_learning
from zoo.rl.tabular.mdp import MDP, greedy
from zoo.rl.tabular.simulator import Simulator

ARMS = 10  # of which half go left in the first state of the process of `left_share`
WRONG, RIGHT = 0, 1  # actions of the blind cliffwalk
STEP, TOLERANCE = 0.25, 1e-3  # of its learner, and the mean squared error at which Q is found
LENGTH = 8  # states of the corridor of `shaped_returns` and `dueling_errors`


def overestimation(actions: int, draws: int, generator: torch.Generator) -> tuple[float, float]:
    """E[max_a X_a] and E[Y_argmax X], where all m actions are worth 0 and X_a, Y_a ~ U(-1, 1) are estimates of that.

    The first is (m - 1) / (m + 1); the second, of estimates Y of other samples, is 0.

    References:
        van Hasselt et al. 2016, arXiv:1509.06461, theorem 1 and figure 1; 004_2b20c020fc470ac5.txt, section 4.1.1.
    """
    x, y = 2 * torch.rand(2, draws, actions, generator=generator) - 1
    best = x.max(1)
    return best.values.mean().item(), y.gather(1, best.indices[:, None]).mean().item()


def left_share(double: bool, episodes: int, runs: int) -> list[float]:
    """How often the first action is "left" in each episode, a mistake, by Q-learning or double Q-learning.

    Right ends the episode with 0. Left leads to a state whose ten actions all end it with 1 or -1, -0.1 in the mean:
    the largest of ten noisy estimates is above 0 for long. Epsilon and the step size are 0.1.

    References:
        Sutton and Barto 2018, example 6.7, with two-valued rewards.
    """
    probabilities = torch.tensor([1.0, 0.0]).double().repeat(2, ARMS, 1)
    probabilities[1] = torch.tensor([0.45, 0.55]).double()
    rewards = torch.tensor([1.0, -1.0]).double().repeat(2, ARMS, 1)
    rewards[0] = 0.0
    terminated = torch.ones(2, ARMS, 2, dtype=torch.bool)
    terminated[0, : ARMS // 2] = False
    mdp = MDP(probabilities, torch.ones(2, ARMS, 2).long(), rewards, terminated, torch.tensor([1.0, 0.0]).double())
    learn, table = double_q_learning if double else q_learning, torch.zeros(2, ARMS)
    counts = [0] * episodes
    for run in range(runs):
        learner = Learner(table, table, table.long(), gamma=1.0, epsilon=0.1, step_size=0.1, step_power=0.0, seed=run)
        world = Simulator(mdp, 2, run)
        for episode in range(episodes):
            while len(learner.episodes) == episode:
                learn(learner, world, 1)
            counts[episode] += learner.episodes[-1][1] == 2
    return [count / runs for count in counts]


def updates_to_solve(states: int, prioritized: bool, seed: int, most: int = 1_000_000) -> int:
    """Updates of Q-learning until Q of the blind cliffwalk is known, from a replay buffer of all its action sequences.

    In each of n states one action ends the episode with nothing; the other goes on, and at the last state earns 1. So 1
    of the 2^(n + 1) - 2 transitions has a reward, and from the others nothing is learned before it. gamma is 1 - 1 / n.

    Args:
        prioritized: whether transitions are drawn in proportion to |delta|, or all alike.

    References:
        Schaul et al. 2016, arXiv:1511.05952, section 3.1 and figure 1.
    """
    gamma, rng = 1 - 1 / states, random.Random(seed)
    torch.manual_seed(seed)
    memory = [(s, a) for s in range(states) for a in (WRONG, RIGHT) for _ in range(2 ** (states - 1 - s))]
    q = [[rng.gauss(0, 0.1), rng.gauss(0, 0.1)] for _ in range(states)]
    true = [[0.0, gamma ** (states - 1 - s)] for s in range(states)]
    priorities = Priorities(len(memory), 1.0)
    priorities.add(torch.arange(len(memory)))
    for count in range(most):
        error = sum(
            (x - y) ** 2 for ours, theirs in zip(q, true, strict=True) for x, y in zip(ours, theirs, strict=True)
        )
        if error < 2 * states * TOLERANCE:
            return count
        k = int(priorities.draw(1)[0]) if prioritized else int(rng.random() * len(memory))
        s, a = memory[k]
        ends = a == WRONG or s == states - 1
        target = float(a == RIGHT) if ends else gamma * max(q[s + 1])
        delta = target - q[s][a]
        q[s][a] += STEP * delta
        if prioritized:
            priorities.update(torch.tensor([k]), torch.tensor([abs(delta)]))
    return most


def shaped_returns(kind: str, episodes: int, runs: int) -> list[float]:
    """The true return of the greedy policy after each episode of Q-learning in a corridor, the mean over runs.

    It begins beside the left end, which earns nothing; the right end earns 1. gamma is 0.95, epsilon 0.3.

    Args:
        kind: "none"; "helps", a potential that rises to the right and is 0 once the episode has ended; or "breaks", the
            same one that is 10 then, which makes the nearer end the better one.

    References:
        Ng, Harada and Russell 1999; 004_2b20c020fc470ac5.txt, section 4.5.2.
    """
    mdp, gamma = _corridor(), 0.95
    potential = gamma ** torch.arange(LENGTH - 1, -1, -1).double()
    shaped = mdp if kind == "none" else mdp.shaped(potential, gamma, terminal=10.0 if kind == "breaks" else 0.0)
    table, returns = torch.zeros(LENGTH, 2), [[0.0] * episodes for _ in range(runs)]
    for run in range(runs):
        learner = Learner(table, table, table.long(), gamma=gamma, epsilon=0.3, step_size=0.5, step_power=0.0, seed=run)
        world = Simulator(shaped, 200, run)
        for episode in range(episodes):
            while len(learner.episodes) == episode:
                q_learning(learner, world, 1)
            returns[run][episode] = mdp.expected_return(greedy(learner.tensors()[0]), gamma)
    return [statistics.fmean(column) for column in zip(*returns, strict=True)]


def dueling_errors(actions: int, dueling: bool, updates: int, runs: int, seed: int = 0) -> list[float]:
    """sum_{s,a} (Q(s, a) - Q^pi(s, a))^2 before each update, the mean over runs: a policy is evaluated in a corridor.

    It goes right, but with probability 0.2 takes any of its actions, of which all but two do nothing. Q is a table, or
    V(s) + A(s, a) - mean A(s, .) of two tables, whose steps are half as long. Each update is of a state drawn from all
    alike, and of the policy's action there, towards r + gamma E_pi[Q(s', a')]; gamma is 0.95.

    References:
        Wang et al. 2016, arXiv:1511.06581, section 4.1 and figure 3, with networks in the place of tables.
    """
    mdp, gamma, epsilon, step = _corridor(actions), 0.95, 0.2, 0.25
    policy = torch.full((LENGTH, actions), epsilon / actions).double()
    policy[:, 1] += 1 - epsilon
    true, generator = mdp.action_values(policy, gamma), torch.Generator().manual_seed(seed)
    value, advantages = torch.zeros(runs, LENGTH, 1).double(), torch.zeros(runs, LENGTH, actions).double()
    rows, errors = torch.arange(runs), []
    for _ in range(updates):
        q = dueling_values(value, advantages, "mean") if dueling else advantages
        errors.append((q - true).square().sum((1, 2)).mean().item())
        states = torch.randint(LENGTH, (runs,), generator=generator)
        chosen = torch.multinomial(policy[states], 1, generator=generator)[:, 0]
        after = mdp.next_states[states, chosen, 0]
        following = torch.where(mdp.terminated[states, chosen, 0], 0.0, (policy[after] * q[rows, after]).sum(1))
        delta = mdp.rewards[states, chosen, 0] + gamma * following - q[rows, states, chosen]
        advantages[rows, states, chosen] += (0.5 if dueling else 1.0) * step * delta
        value[rows, states, 0] += 0.5 * step * delta
    return errors


def _corridor(actions: int = 2) -> MDP:
    """Action 0 goes left, action 1 right, others stay; both ends end the episode."""
    next_states = torch.arange(LENGTH)[:, None].repeat(1, actions)
    next_states[:, 0] -= 1
    next_states[:, 1] += 1
    next_states = next_states.clamp(0, LENGTH - 1)[..., None]
    terminated = torch.zeros(LENGTH, actions, 1, dtype=torch.bool)
    terminated[0, 0], terminated[-1, 1] = True, True
    rewards = torch.zeros(LENGTH, actions, 1).double()
    rewards[-1, 1] = 1.0
    start = torch.zeros(LENGTH).double()
    start[1] = 1.0
    return MDP(torch.ones(LENGTH, actions, 1).double(), next_states, rewards, terminated, start)
