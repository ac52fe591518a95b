"""Tables: value and policy iteration, Monte Carlo, TD(0), SARSA, Q-learning and double Q-learning."""

import math
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.trainer.construct import construct
from lightning_modules.trainer.progress import (
    continue_finished_run,
    count_env_steps,
    log_test,
    log_training,
    log_validation,
    start_clock,
)
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.tabular.learning import LEARNERS, Learner
from zoo.rl.tabular.mdp import MDP, improve
from zoo.rl.types import Spaces

METHODS = ("value_iteration", "policy_iteration", *LEARNERS)
PAPERS = {  # method -> what its cards cite
    "value_iteration": "Bellman 1957, Dynamic Programming",
    "policy_iteration": "Howard 1960, Dynamic Programming and Markov Processes",
    "td0": "Sutton 1988, doi:10.1007/BF00115009",
    "sarsa": "Rummery and Niranjan 1994, CUED/F-INFENG/TR 166",
    "q_learning": "Watkins and Dayan 1992, doi:10.1007/BF00992698",
    "double_q_learning": "van Hasselt 2010, Double Q-learning",
    "monte_carlo_first_visit": "Sutton and Barto 2018, Reinforcement Learning",
    "monte_carlo_every_visit": "Sutton and Barto 2018, Reinforcement Learning",
}


class Tabular(L.LightningModule):
    """Q(s, a) <- Q(s, a) + alpha_n (target - Q(s, a)), one number for each state and action.

    One training step is a `Walk` of `TabularExperience`: many steps of the environment, or of planning, which takes
    none, as many sweeps or rounds. Planning stops when it has converged.

    | method | target of Q(s, a) |
    | --- | --- |
    | value_iteration | E[r + gamma max_a' Q(s', a')] by the model, of all pairs in a sweep |
    | policy_iteration | Q^pi by the model, solved in each round; pi becomes greedy in it |
    | monte_carlo_first_visit, monte_carlo_every_visit | the return from there on to the end of the episode |
    | td0 | E[r + gamma V(s')] by the model, where V(s) <- V(s) + alpha_n (r + gamma V(s') - V(s)) |
    | sarsa | r + gamma Q(s', a'), a' the next action |
    | q_learning | r + gamma max_a' Q(s', a') |
    | double_q_learning | the same, where one table chooses a' and another values it; the result is their mean |

    td0 predicts a policy and does not change it: the epsilon-greedy one of `pretrained`, or one that draws all actions
    alike. For control it is one step of policy iteration whose evaluation is sampled: the table is greedy in V.

    Args:
        spaces, total_env_steps: filled in from the data.
        method: one of the table above.
        gamma: discount.
        epsilon: of the epsilon-greedy policy that acts. final_epsilon: to which it falls linearly over the run, in
            steps of a training batch; by default it stays.
        step_size, step_power: alpha_n = step_size / n^step_power in the n-th update of an entry. 1 and 0 take the
            whole step, right in a deterministic environment; 1 and 1 make averages, right for Monte Carlo.
        tolerance: value iteration stops when no max_a Q(s, a) changes by more.
        pretrained: a MODEL to begin from, instead of zeros.

    References:
        001_7af9247201bdf7d9.txt, sections 7.1 to 7.4; 004_2b20c020fc470ac5.txt, section 4.1.1; Sutton and Barto 2018,
        chapters 4 to 6.
    """

    papers = PAPERS
    env_steps: Tensor
    q: Tensor
    second: Tensor
    visits: Tensor
    actions: Tensor

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        method: Literal[
            "value_iteration", "policy_iteration", "monte_carlo_first_visit", "monte_carlo_every_visit", "td0", "sarsa",
            "q_learning", "double_q_learning",
        ] = "q_learning",
        gamma: float = 0.99,
        epsilon: float = 0.1,
        final_epsilon: float | None = None,
        step_size: float = 1.0,
        step_power: float = 0.5,
        tolerance: float = 1e-12,
        pretrained: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        _check(self.hparams)
        if len(spaces["num_actions"]) != 1 or len(spaces["observation_shape"]) != 1:
            raise UserError(f"a table takes one Discrete observation and one Discrete action, got {spaces}")
        self.paper = PAPERS[method]
        last = epsilon if final_epsilon is None else final_epsilon
        plans = method in ("value_iteration", "policy_iteration")
        self.model = construct(self, "table", **spaces, epsilon=0.0 if plans else last)
        start = self.model.q.detach().double()
        self.register_buffer("q", start.clone())
        self.register_buffer(
            "second", start.clone() if method in ("double_q_learning", "td0") else start.new_zeros(1, 1)
        )
        if method == "td0":
            self.q = torch.zeros_like(start)  # column 0 is V
        self.register_buffer("visits", torch.zeros(start.shape, dtype=torch.int64))
        self.register_buffer("actions", start.argmax(1))  # of policy iteration, which keeps ties
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[Optimizer]:
        return []

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError("Tabular learns in one process, in seconds: set trainer.devices to 1")
        start_clock(self)

    def on_train_start(self) -> None:
        """Takes up the tables where they are, zeros or those of a checkpoint."""
        names = ("gamma", "epsilon", "step_size", "step_power")
        options = {name: self.hparams[name] for name in names}
        self.learner = Learner(self.q, self.second, self.visits, **options)

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> None:
        before = self.model.q.clone()
        if not hasattr(batch, "world"):
            raise UserError("Tabular learns from TabularExperience: set data.class_path to it")
        if self.hparams["method"] in LEARNERS:
            statistics = self.learn(batch)
            count = batch.steps
        else:
            statistics, count, converged = self.plan(batch)
            if converged:
                self.trainer.should_stop = True
        change = float((self.model.q - before).abs().max())
        count_env_steps(self, torch.tensor(count))
        returns, lengths = zip(*self.learner.episodes, strict=True) if self.learner.episodes else ((), ())
        log_training(self, statistics | {"change": change}, returns, lengths)
        self.learner.episodes.clear()

    def learn(self, batch: Any) -> dict[str, float]:
        """The steps of a `Walk`, with an update each, or at the end of each episode."""
        hp, learner = self.hparams, self.learner
        done = float(self.env_steps) / hp["total_env_steps"]
        last = hp["epsilon"] if hp["final_epsilon"] is None else hp["final_epsilon"]
        learner.epsilon = hp["epsilon"] + (last - hp["epsilon"]) * min(1.0, done)
        learner.seed(int(torch.randint(2**31, ())))  # PyTorch's random state is in the checkpoint
        LEARNERS[hp["method"]](learner, batch.world, batch.steps)
        for own, now in zip((self.q, self.second, self.visits), learner.tensors(), strict=True):
            own.copy_(now)
        self.model.q.copy_(self._result(batch.mdp))
        return {"epsilon": learner.epsilon}

    def plan(self, batch: Any) -> tuple[dict[str, float], int, bool]:
        """The sweeps or rounds of a `Walk`: statistics, how many they were, and whether they have converged."""
        mdp, hp = self._model(batch.mdp), self.hparams
        count, converged = 0, False
        while count < batch.steps and not converged:
            count += 1
            if hp["method"] == "value_iteration":
                values = self.q.amax(1)
                self.q.copy_(mdp.backup(values, hp["gamma"]))
                change = float((self.q.amax(1) - values).abs().max())
                converged = change < hp["tolerance"]
            else:
                policy = torch.nn.functional.one_hot(self.actions, self.q.shape[1]).double()
                self.q.copy_(mdp.action_values(policy, hp["gamma"]))
                better = improve(self.q, self.actions)
                change = float((better != self.actions).sum())
                self.actions.copy_(better)
                converged = change == 0
        self.model.q.copy_(self.q)
        name = "value_change" if hp["method"] == "value_iteration" else "changed_actions"
        return {name: change}, count, converged

    def _result(self, mdp: MDP | None) -> Tensor:
        """The table that learning has come to so far."""
        if self.hparams["method"] == "double_q_learning":
            return (self.q + self.second) / 2
        if self.hparams["method"] == "td0":
            return self._model(mdp).backup(self.q[:, 0], self.hparams["gamma"])
        return self.q

    def _model(self, mdp: MDP | None) -> MDP:
        if mdp is None:
            raise UserError(
                f"model.method {self.hparams['method']} needs the model of the environment (env.P), and this one has "
                "none: learn from its steps instead, model.method q_learning"
            )
        return mdp

    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check(hp: Any) -> None:
    """Raises a UserError for values with which nothing could be learned."""
    if hp["method"] not in METHODS:
        raise UserError(f"model.method must be one of {', '.join(METHODS)}, got {hp['method']!r}")
    for name in ("total_env_steps", "step_size", "tolerance"):
        if not 0 < hp[name] < math.inf:
            raise UserError(f"model.{name} must be positive and finite, got {hp[name]}")
    for name in ("gamma", "epsilon", "final_epsilon", "step_power"):
        if hp[name] is not None and not 0 <= hp[name] <= 1:
            raise UserError(f"model.{name} must be between 0 and 1, got {hp[name]}")
    if hp["step_size"] > 1:
        raise UserError(f"model.step_size must be at most 1, the whole way to the target, got {hp['step_size']}")
    if hp["method"] == "policy_iteration" and hp["gamma"] == 1:
        raise UserError("policy_iteration needs model.gamma below 1: a policy that never ends has no value otherwise")
