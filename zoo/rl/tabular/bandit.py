"""Four ways to step a policy on a bandit whose expected rewards are known, and how far each moves it."""

import torch
from torch import Tensor

from zoo.rl.on_policy.losses import clipped_surrogate
from zoo.rl.on_policy.ppo import Rows
from zoo.rl.on_policy.trust_region import TrustRegion, step_policy
from zoo.rl.policies import ActorCritic

METHODS = {"vanilla": 5.0, "natural": 0.5, "TRPO": 0.0, "PPO": 0.5}  # and the length of their steps
START, REWARDS = (0.96, 0.03, 0.01), (0.5, 0.0, 1.0)  # the best arm is the rarest
DELTA, EPOCHS, CLIP = 0.01, 10, 0.2


def learn_bandit(method: str, updates: int) -> list[dict[str, float]]:
    """KL(old || new) and the expected reward after each update, without any sampling: rows are weighted by pi(a).

    Args:
        method: "vanilla", theta + 5 grad J; "natural", theta + 1/2 F^-1 grad J; "TRPO", with delta 0.01; "PPO", ten
            gradient steps up the clipped surrogate.
    """
    policy = ActorCritic((1,), (len(START),), hidden=(1,)).double()
    for parameter in policy.actor_head.parameters():
        parameter.data.zero_()
    bias, rewards = policy.actor_head.bias, torch.tensor(REWARDS, dtype=torch.float64)
    bias.data += torch.tensor(START, dtype=torch.float64).log()
    done = []
    for _ in range(updates):
        old = bias.detach().log_softmax(0)
        advantages = rewards - old.exp() @ rewards
        _step(method, policy, bias, old, advantages)
        new = bias.detach().log_softmax(0)
        done.append({"kl": float((old.exp() * (old - new)).sum()), "reward": float(new.exp() @ rewards)})
    return done


def _step(method: str, policy: ActorCritic, bias: Tensor, old: Tensor, advantages: Tensor) -> None:
    if method in ("natural", "TRPO"):
        zeros, actions = torch.zeros_like(old), torch.arange(len(old), dtype=old.dtype)
        rows = Rows(zeros[:, None], actions[:, None], old, zeros, advantages, zeros, old.exp())
        deviation = float((old.exp() @ advantages.square()).sqrt())  # `step_policy` standardises advantages
        natural = TrustRegion(step=METHODS[method] * deviation, line_search=False, damping=0.0)
        step_policy(policy, [bias], bias.data, rows, TrustRegion(DELTA, damping=0.0) if method == "TRPO" else natural)
        return
    for _ in range(EPOCHS if method == "PPO" else 1):
        with torch.enable_grad():
            ratio = bias.log_softmax(0) - old
            clip = torch.tensor(CLIP if method == "PPO" else torch.inf, dtype=old.dtype)
            loss = (old.exp() * clipped_surrogate(ratio, advantages, clip)).sum()
        bias.data -= METHODS[method] * torch.autograd.grad(loss, bias)[0]
