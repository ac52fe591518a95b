"""Policy gradients: REINFORCE, actor-critic, A2C."""

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.rl.learner import Learner, Loss, Statistics
from lightning_modules.rl.on_policy.common import (
    anneal,
    begin_episodes,
    build,
    check,
    count,
    learn_from_rollouts,
    merge_observations,
    policy_gradient_optimizer,
    start,
)
from lightning_modules.trainer.progress import continue_finished_run, log_test, log_validation
from lightning_modules.trainer.record import record
from zoo.errors import UserError
from zoo.rl.flat import OPTIMIZERS
from zoo.rl.moments import RunningMoments
from zoo.rl.on_policy.losses import explained_variance
from zoo.rl.on_policy.policy_gradient import BASELINES, RETURNS, Estimator, gradient_rows
from zoo.rl.policies import ActorCritic
from zoo.rl.types import Rollout, Spaces

A2C = "Mnih et al. 2016, arXiv:1602.01783"
PAPERS = {"monte-carlo": "Williams 1992, Simple statistical gradient-following algorithms", "n-step": A2C, "gae": A2C}
LONG = 200_000  # environment steps from which compiling pays, with rollouts of some 50


class PolicyGradient(L.LightningModule):
    """Ascends E[sum_t Psi_t grad log pi(a_t | s_t)], one gradient step a rollout.

    REINFORCE is `returns: monte-carlo` with `data.whole_episodes`, and any baseline. One-step actor-critic is `returns:
    n-step` with `n_step: 1`. A2C is `returns: gae` with lambda 1 and RMSprop on short rollouts of several environments.

    Args:
        spaces: filled in from the data.
        total_env_steps: filled in from the data; the run stops there, and what is annealed reaches 0.
        hidden, activation, shared, log_std, exploration, hold: of `zoo.rl.policies.ActorCritic`.
        normalize: whether observations are normalised by their running moments, and rewards divided by the running
            standard deviation of discounted returns; both are clipped to +-10.
        gamma: discount.
        returns: "monte-carlo", of whole episodes; "n-step"; or "gae".
        n_step: of n-step returns. gae_lambda: of generalised advantages.
        baseline: what is subtracted from returns: "none", "value" (V(s)), or of Monte Carlo returns "mean" (of the
            episodes of a rollout, at the same step) or "leave-one-out" (the same, of the others).
        reward_to_go: whether an action is credited with later rewards alone, or with the whole episode's.
        discount_states: whether the gradient of a step has the factor gamma^t, which the exact one has.
        normalize_advantages: whether to standardise them in each rollout.
        optimizer: "adam", "rmsprop" (epsilon outside the root, as PyTorch) or "rmsprop-inside" (as TensorFlow).
        learning_rate, epsilon: of the optimizer. anneal: whether the rate falls linearly to 0.
        value_weight, entropy_weight: of these two losses.
        max_grad_norm: to which the gradient is shortened, None for never.
        compile: whether to compile the gradient; by default in long runs whose rollouts are of one length, if a
            compiler is found.

    References:
        Williams 1992; Sutton et al. 1999; Mnih et al. 2016, arXiv:1602.01783.
    """

    model: ActorCritic
    learner: Learner
    loss: Loss
    return_moments: RunningMoments
    env_steps: Tensor
    papers = PAPERS

    def __init__(
        self,
        spaces: Spaces,
        total_env_steps: int = 100_000,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        shared: bool = False,
        log_std: float = 0.0,
        exploration: str = "independent",
        hold: int = 4,
        normalize: bool = False,
        gamma: float = 0.99,
        returns: str = "gae",
        n_step: int = 5,
        gae_lambda: float = 1.0,
        baseline: str = "value",
        reward_to_go: bool = True,
        discount_states: bool = False,
        normalize_advantages: bool = False,
        optimizer: str = "rmsprop",
        learning_rate: float = 7e-4,
        epsilon: float = 1e-5,
        anneal: bool = False,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        max_grad_norm: float | None = 0.5,
        compile: bool | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check(
            self,
            positive=("epsilon", "n_step"),
            shares=("gae_lambda",),
            optional=("max_grad_norm",),
            weights=("value_weight", "entropy_weight"),
        )
        _check_choices(self)
        self.paper = PAPERS[returns]
        build(self, spaces)

    def configure_optimizers(self) -> Optimizer:
        hp = self.hparams
        self.how = Estimator(**{name: hp[name] for name in Estimator._fields})
        return policy_gradient_optimizer(self, hp["total_env_steps"] >= LONG and hp["returns"] != "monte-carlo")

    def learn(self, rollout: Rollout) -> list[Statistics]:
        """One gradient step: its statistics."""
        if self.how.returns == "monte-carlo":
            _check_whole(self, rollout)
        anneal(self)
        observed = count(self, rollout)
        scale = self.return_moments.scale()
        rows = gradient_rows(self.model, rollout, scale, self.how, self.hparams["normalize_advantages"])
        statistics = self.learner.step(self.loss, rows.pack())
        merge_observations(self, observed)
        return [statistics | {"explained_variance": explained_variance(rows.values, rows.targets, rows.weights)}]

    on_fit_start = start
    begin_episodes = begin_episodes
    training_step = learn_from_rollouts
    validation_step = log_validation
    test_step = log_test
    on_load_checkpoint = continue_finished_run
    configure_callbacks = record


def _check_choices(module: PolicyGradient) -> None:
    hp = module.hparams
    for name, choices in {"returns": RETURNS, "baseline": BASELINES, "optimizer": [*OPTIMIZERS]}.items():
        if hp[name] not in choices:
            raise UserError(f"model.{name} must be one of {', '.join(choices)}, got {hp[name]!r}")
    if hp["returns"] != "monte-carlo":
        whole = {"baseline mean": hp["baseline"] == "mean", "baseline leave-one-out": hp["baseline"] == "leave-one-out"}
        whole |= {"reward_to_go false": not hp["reward_to_go"], "discount_states true": hp["discount_states"]}
        for option in (option for option, given in whole.items() if given):
            raise UserError(f"model.{option} needs whole episodes: set model.returns monte-carlo, or leave it out")
    if hp["discount_states"] and not hp["reward_to_go"]:
        raise UserError("model.discount_states needs model.reward_to_go: the total return is discounted already")
    if hp["compile"] and hp["returns"] == "monte-carlo":
        raise UserError("model.compile true needs rollouts of one length, which whole episodes are not: leave it out")


def _check_whole(module: PolicyGradient, rollout: Rollout) -> None:
    """Raises a UserError unless every column of a rollout is one whole episode, and what follows is no transition."""
    if module.hparams["baseline"] == "leave-one-out" and rollout.valid.shape[1] < 2:
        raise UserError("model.baseline leave-one-out compares episodes: set data.num_envs to 2 or more")
    ends = rollout.terminated | rollout.truncated
    if not ((ends.sum(0) == 1) & (rollout.valid == ((ends.cumsum(0) - ends.long()) == 0)).all(0)).all():
        raise UserError("model.returns monte-carlo learns from whole episodes: set data.whole_episodes true")
