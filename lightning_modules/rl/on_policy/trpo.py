"""Trust region policy optimisation, and the natural policy gradient."""

from functools import partial

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Statistics, mean_over_processes
from lightning_modules.rl.on_policy.common import (
    anneal,
    begin_episodes,
    build,
    check,
    check_minibatches,
    count,
    learn_from_rollouts,
    merge_observations,
    start,
)
from lightning_modules.trainer.compilation import should_compile
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import FlatParameters
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance
from zoo.rl.on_policy.ppo import rows_of
from zoo.rl.on_policy.trust_region import FISHERS, TrustRegion, critic_loss, critic_rows, step_policy
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout, Spaces

LONG = 500_000  # environment steps times epochs of the critic from which compiling pays

PAPERS = {"trpo": "Schulman et al. 2015, arXiv:1502.05477", "natural": "Kakade 2001, A natural policy gradient"}


class TRPO(L.LightningModule):
    """Maximises E[r A] subject to mean KL(pi_old || pi) <= delta, r = pi(a | s) / pi_old(a | s), with A by GAE.

    A step goes along x = F^-1 g, which conjugate gradients find, and is shortened until the KL is small enough and the
    objective improves. Otherwise the policy stays as it is, to the bit. The critic then takes `epochs` passes of Adam.
    The natural policy gradient is `line_search: false`, and with `step` a fixed multiple of x.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        hidden, activation, log_std, exploration, hold: of `zoo.rl.policies.ActorCritic`. Actor and critic share no
            trunk: steps of the critic would move the policy out of its trust region.
        normalize: whether observations are normalised by their running moments, and rewards divided by the running
            standard deviation of discounted returns; both are clipped to +-10.
        gamma: discount. gae_lambda: lambda of GAE.
        delta, step, line_search, fisher: of `zoo.rl.on_policy.trust_region.TrustRegion`.
        iterations, damping: of conjugate gradients.
        epochs: passes of the critic over a rollout. minibatch_size: rows of its gradient steps, in each process.
        learning_rate: of the critic's Adam. anneal: whether it falls linearly to 0, as does delta.
        compile: whether to compile the critic's gradient; by default in long runs, if a compiler is found.

    References:
        Schulman et al. 2015, arXiv:1502.05477; Kakade 2001, A natural policy gradient.
    """

    model: ActorCritic
    return_moments: RunningMoments
    env_steps: Tensor
    papers = PAPERS

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        log_std: float = 0.0,
        exploration: str = "independent",
        hold: int = 4,
        normalize: bool = False,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        delta: float = 0.01,
        step: float | None = None,
        line_search: bool = True,
        fisher: str = "exact",
        iterations: int = 10,
        damping: float = 0.1,
        epochs: int = 20,
        minibatch_size: int = 128,
        learning_rate: float = 1e-3,
        anneal: bool = False,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        positive = ("delta", "iterations", "epochs", "minibatch_size")
        check(self, positive=positive, shares=("gae_lambda",), optional=("step",), weights=("damping",))
        if fisher not in FISHERS:
            raise UserError(f"model.fisher must be one of {', '.join(FISHERS)}, got {fisher!r}")
        if step is not None and line_search:
            raise UserError("model.step is a fixed step, which no line search shortens: set model.line_search false")
        self.paper = PAPERS["trpo" if line_search else "natural"]
        build(self, spaces, shared=False)

    def configure_optimizers(self) -> Optimizer:
        hp, model = self.hparams, self.model
        assert model.critic_trunk is not None
        critic = nn.Sequential(model.critic_trunk, model.critic_head)
        self.actor = FlatParameters(nn.ModuleList([model.actor_trunk, model.actor_head, model.distribution]))
        self.loss = partial(critic_loss, critic=critic)
        compile = should_compile(self, pays=hp["total_env_steps"] * hp["epochs"] >= LONG)
        self.learner = Learner(critic, hp["learning_rate"], epsilon=1e-5, compile=compile)
        return self.learner.optimizer

    def learn(self, rollout: Rollout) -> list[Statistics]:
        """A step of the policy and the critic's passes: the statistics of each gradient step, and of the rollout."""
        hp = self.hparams
        check_minibatches(self, rollout)
        left = anneal(self)
        observed = count(self, rollout)
        rows = rows_of(self.model, rollout, self.return_moments.scale(), hp["gamma"], hp["gae_lambda"])
        region = TrustRegion(**{name: hp[name] for name in TrustRegion._fields})
        if hp["anneal"]:
            region = region._replace(delta=max(left, 1e-3) * region.delta)
        parameters = [*self.actor.module.parameters()]
        with torch.autocast(self.device.type, enabled=False):  # a Hessian has no digits to spare
            stepped = step_policy(
                self.model, parameters, self.actor.vector.data, rows, region, average=mean_over_processes
            )
        stepped["explained_variance"] = explained_variance(rows.values, rows.targets, rows.weights)
        statistics = [stepped]
        matrix = critic_rows(self.model, rows)
        for _ in range(hp["epochs"]):
            shuffled = matrix[torch.randperm(len(matrix), device=matrix.device)]
            statistics += [self.learner.step(self.loss, part) for part in shuffled.split(hp["minibatch_size"])]
        merge_observations(self, observed)
        return statistics

    on_fit_start = start
    begin_episodes = begin_episodes
    training_step = learn_from_rollouts
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record
