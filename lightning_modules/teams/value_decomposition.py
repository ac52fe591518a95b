"""Value decomposition: a team whose agents act alone, trained by one value of what they do together."""

import copy
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Statistics, mean_statistics, sum_over_processes
from lightning_modules.rl.off_policy.common import anneal_learning_rates, check, learner
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
from zoo.rl.flat import FlatParameters
from zoo.rl.off_policy.values import soft_update
from zoo.teams.losses import METHODS, Learned, make_mixer, team_loss
from zoo.teams.types import TeamEpisodes, TeamSpaces

PAPERS = {
    "independent": "Tan 1993, Multi-agent reinforcement learning: independent versus cooperative agents",
    "vdn": "Sunehag et al. 2017, arXiv:1706.05296",
    "qmix": "Rashid et al. 2018, arXiv:1803.11485",
    "qatten": "Yang et al. 2020, arXiv:2002.03939",
    "qplex": "Wang et al. 2021, arXiv:2008.01062",
    "qtran": "Son et al. 2019, arXiv:1905.05408",
    "cw-qmix": "Rashid et al. 2020, arXiv:2006.10800",
    "ow-qmix": "Rashid et al. 2020, arXiv:2006.10800",
    "resq": "Shen et al. 2022, ResQ: a residual Q function-based approach for multi-agent value factorization, NeurIPS",
    "resz": "Shen et al. 2022, ResQ: a residual Q function-based approach for multi-agent value factorization, NeurIPS",
}


class ValueDecomposition(L.LightningModule):
    """Fits Q_tot(s, u) of the mixed utilities Q_i(tau_i, u_i) to r + gamma (1 - terminated) Q'_tot(s', u*).

    u* is the joint action that is greedy in the utilities; Q' is a slow copy of agents and mixer. One training step is
    the `TeamRounds` of `TeamReplay`: episodes and updates in turn. An update is one Adam step on a minibatch of whole
    episodes. After training, each agent acts on its own observations alone.

    Args:
        team_spaces, total_env_steps: filled in from the data.
        method: "independent", "vdn", "qmix", "qatten", "qplex", "qtran", "cw-qmix", "ow-qmix", "resq" or "resz".
        hidden, recurrent, shared, last_action, agent_id, horizon: of the agents, as `zoo.teams.agents.Agents`.
        quantiles: of each return, for "resz".
        mixing: width of the mixer or of the central value; null for the method's own.
        target_period: environment steps between updates of Q'. tau: Q' <- tau Q + (1 - tau) Q' at these.
        td_lambda: lambda-returns of Q' in place of one step.
        gamma: discount.
        bootstrap_truncated: whether an episode that is cut by its time limit bootstraps from the value of what would
            follow. It should where the limit is no part of the task. Where all episodes are cut, no state after the
            limit is ever learned from, and its value, an extrapolation, may grow without bound.
        learning_rate: of Adam. max_norm: to which a longer gradient is shortened.
        epsilon: probability of a random action of each agent, after it has fallen linearly from 1 over
            `epsilon_env_steps`.
        anneal: whether the learning rate falls linearly to 0.
        compile: whether to compile the gradient; by default in long runs, if a compiler is found.

    References:
        PAPERS; 000_507b39bbaa34acda.txt, section 10.
    """

    env_steps: Tensor
    papers = PAPERS

    def __init__(
        self,
        team_spaces: TeamSpaces,
        total_env_steps: int = 1_000_000,
        method: str = "qmix",
        hidden: tuple[int, ...] = (64, 64),
        recurrent: bool = False,
        shared: bool = True,
        last_action: bool = True,
        agent_id: bool = True,
        horizon: int = 0,
        quantiles: int = 1,
        mixing: int | None = None,
        target_period: int = 1,
        tau: float = 0.01,
        td_lambda: float = 0.0,
        gamma: float = 0.99,
        bootstrap_truncated: bool = True,
        learning_rate: float = 5e-4,
        max_norm: float = 10.0,
        epsilon: float = 0.05,
        epsilon_env_steps: int = 50_000,
        anneal: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check(self.hparams, ("learning_rate", "max_norm", "epsilon_env_steps", "target_period", "quantiles"))
        if method not in METHODS:
            raise UserError(f"model.method must be one of {', '.join(METHODS)}, got {method!r}")
        for name in ("epsilon", "td_lambda"):
            if not 0 <= self.hparams[name] <= 1:
                raise UserError(f"model.{name} must be between 0 and 1, got {self.hparams[name]}")
        if horizon < 0:
            raise UserError(f"model.horizon must be at least 0, got {horizon}")
        if (quantiles > 1) != (method == "resz"):
            raise UserError(f"model.quantiles must be above 1 for resz and 1 for all others, got {quantiles}")
        _check_spaces(team_spaces, shared)
        self.gamma = gamma
        self.model = construct(self, "q-team", **team_spaces)
        self.mixer = make_mixer(method, self.model, **({} if mixing is None else {"width": mixing}))
        self.target = copy.deepcopy(Learned(self.model, self.mixer)).requires_grad_(False)
        self.paper = PAPERS[method]
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[Optimizer]:
        network = Learned(self.model, self.mixer)
        options = {name: self.hparams[name] for name in ("gamma", "td_lambda", "bootstrap_truncated")}
        self.loss = partial(team_loss, network=network, target=self.target, **options)
        self.learner = learner(self, network, self.hparams["learning_rate"], self.hparams["max_norm"])
        self.flat_target = FlatParameters(self.target)  # not its vector: a registered one would enter state_dict
        return [self.learner.optimizer]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        anneal_learning_rates(self)
        updates: list[Statistics] = []
        before = done = int(self.env_steps)
        self.explore(done)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for minibatches in batch:
                updates += [self.update(minibatch) for minibatch in minibatches]
                last, done = done, before + int(sum_over_processes(torch.tensor(batch.env_steps, device=self.device)))
                self.update_target(last, done)
                self.explore(done)
        count_env_steps(self, torch.tensor(done - before, device=self.device))
        log_training(self, mean_statistics(updates), batch.returns, batch.lengths)

    def update(self, minibatch: TeamEpisodes) -> Statistics:
        """One update by a minibatch of episodes."""
        return self.learner.step(self.loss, minibatch)

    def explore(self, env_steps: int) -> None:
        """Sets epsilon to that of a count of environment steps."""
        left = max(0.0, 1 - env_steps / self.hparams["epsilon_env_steps"])
        self.model.epsilon = self.hparams["epsilon"] + (1 - self.hparams["epsilon"]) * left

    def update_target(self, last: int, now: int) -> None:
        """Q' <- tau Q + (1 - tau) Q', if environment steps passed a multiple of `target_period` between two counts."""
        period = self.hparams["target_period"]
        if now // period > last // period:
            soft_update(self.flat_target.vector, self.learner.vector, self.hparams["tau"])

    def on_fit_start(self) -> None:
        if self.trainer.precision != "32-true":
            raise UserError(
                f"trainer.precision {self.trainer.precision} is not known to ValueDecomposition: use 32-true"
            )
        start_clock(self)

    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check_spaces(spaces: TeamSpaces, shared: bool) -> None:
    sizes, actions = spaces["observation_sizes"], spaces["num_actions"]
    if shared and len({*zip(sizes, actions, strict=True)}) > 1:
        raise UserError(
            f"agents with observations of {', '.join(map(str, sizes))} numbers and {', '.join(map(str, actions))} "
            "actions cannot share one network: set model.shared to false"
        )
    if max(actions) == 1:
        raise UserError("value decomposition needs a choice, but no agent of this environment has more than one action")
