"""The compatible critic of the deterministic policy gradient, on a linear system whose gradient is exact."""

import torch

from zoo.rl.off_policy.values import policy_gradient_loss

GAMMA = 0.9
generator = torch.Generator().manual_seed(0)
A, B = torch.randn(3, 3, generator=generator).double() / 4, torch.randn(3, 2, generator=generator).double()
COSTS = torch.eye(3).double()  # of states; actions cost |a|^2
GAINS = (
    torch.randn(2, 2, 3, generator=generator).double() / 8
)  # of both parameters: mu(s) = (theta_1 K_1 + theta_2 K_2) s


def solved(closed, constant):
    """X = constant + gamma closed X closed^T."""
    size = len(closed)
    left = torch.eye(size**2, dtype=torch.float64) - GAMMA * torch.kron(closed, closed)
    return torch.linalg.solve(left, constant.flatten()).view(size, size)


def gain(theta):
    return torch.einsum("i,iab->ab", theta, GAINS)


def cost_to_go(theta):
    """P: V(s) = -s^T P s."""
    k = gain(theta)
    return solved((A + B @ k).mT, COSTS + k.mT @ k)


def compatible(states, actions, theta, w):
    """Q^w(s, a) = (a - mu(s))^T grad_theta mu(s)^T w + V(s), for any V."""
    slopes = torch.einsum("iab,nb->nia", GAINS, states)  # grad_theta mu(s), (n, 2 parameters, 2 actions)
    return ((actions - states @ gain(theta).mT) * torch.einsum("nia,i->na", slopes, w)).sum(1) + states.square().sum(1)


def test_least_squares_give_the_exact_gradient():
    """COPDAC (Silver et al. 2014, theorem 3): however far Q^w is from Q, as long as w fits its slopes best.

    Three weighted states stand for the discounted distribution from s_0 ~ N(0, I): every mean here is of a quadratic
    form, and theirs has the same second moments. Two parameters cannot fit the slopes of two actions in three states.
    """
    theta = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(-torch.trace(cost_to_go(theta)), theta)[0]  # of J = E[V(s_0)]
    theta = theta.detach()
    closed, p = A + B @ gain(theta), cost_to_go(theta)
    assert torch.linalg.eigvals(closed).abs().max() ** 2 * GAMMA < 1, "J is finite"
    states = torch.linalg.cholesky(solved(closed, torch.eye(3).double())).mT  # sum_n s s^T is the second moment
    actions = states @ gain(theta).mT
    slopes_of_q = -2 * actions - 2 * GAMMA * states @ closed.mT @ p @ B  # dQ / da at mu(s)
    slopes_of_mu = torch.einsum("iab,nb->nia", GAINS, states)
    features = slopes_of_mu.mT.reshape(-1, 2)
    w = torch.linalg.lstsq(features, slopes_of_q.reshape(-1, 1)).solution[:, 0]
    assert (features @ w - slopes_of_q.flatten()).norm() > 0.3 * slopes_of_q.norm(), "Q^w is not Q"

    def gradient(w):
        moving = theta.clone().requires_grad_()
        values = compatible(states, states @ gain(moving).mT, theta, w)  # the critic does not move with the actor
        return -torch.autograd.grad(policy_gradient_loss(values[None]).sum(), moving)[0]

    torch.testing.assert_close(gradient(w), exact, rtol=1e-10, atol=1e-12)
    assert (gradient(w + 0.1) - exact).norm() > 1e-2 * exact.norm()
