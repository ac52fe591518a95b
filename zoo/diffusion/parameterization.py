"""What the network predicts, and the way from there to x_0.

With x_t = a x_0 + s eps, a = sqrt(abar_t), s = sqrt(1 - abar_t):

    eps:  x_0 = (x_t - s eps) / a
    x0:   x_0
    v:    v = a eps - s x_0,  x_0 = a x_t - s v

References:
    eps: Ho et al. 2020, arXiv:2006.11239, eq. 15. v: Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D.
"""

from torch import Tensor

PARAMETERIZATIONS = ("eps", "x0", "v")


def check(parameterization: str) -> None:
    """Raises ValueError unless the name is known."""
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {parameterization!r}")


def training_target(parameterization: str, x0: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """What the network should have said: eps, x_0 or v. All of shape (B, ...); signal and sigma broadcast."""
    check(parameterization)
    if parameterization == "eps":
        return eps
    if parameterization == "x0":
        return x0
    return signal * eps - sigma * x0


def prediction_to_x0(parameterization: str, prediction: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The estimate of x_0 that a prediction stands for. All of shape (B, ...); signal and sigma broadcast."""
    check(parameterization)
    if parameterization == "eps":
        return (x_t - sigma * prediction) / signal
    if parameterization == "x0":
        return prediction
    return signal * x_t - sigma * prediction
