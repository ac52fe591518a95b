"""Densities of the plane from which one can draw, whose log-density is known, and so the score that no model beats.

Most are curves thickened by noise, p(x) = sum_j w_j K(x - c_j): in closed form for circles, by quadrature along the
curve elsewhere, fine enough that float64 is the limit. Points are independent draws: where the original code deals the
same number of points to each part of a figure, a part is drawn at random here.

References:
    Grathwohl et al. 2018, FFJORD, arXiv:1810.01367, section 4.1, for the densities, by the constants of its authors'
    code; "moons", "circles" and "swissroll" are scikit-learn's curves with their noise, scaled.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import UserError

# Differential entropy in nats, the least mean of -log p. ln 32 is exact; the others are `entropy` at a spacing of 0.04,
# with an error of at most 1e-5: half the spacing and four times the nodes along the curves give the same digits.
ENTROPIES_NATS = {
    "moons": 2.39388,
    "circles": 3.26814,
    "rings": 2.62318,
    "pinwheel": 2.31779,
    "8gaussians": 2.83188,
    "checkerboard": math.log(32),
    "2spirals": 2.6454,
    "swissroll": 2.66964,
}
NAMES = tuple(ENTROPIES_NATS)
SMOOTH = tuple(name for name in NAMES if name != "checkerboard")  # without a jump in the density
NODES = 800  # of the quadrature along a curve: a tenth of the noise apart at most
CHUNK = 2**22  # kernel values held at once


class Rings(NamedTuple):
    """Circles about the origin, all equally likely, with normal noise in both coordinates."""

    radii: tuple[float, ...]
    noise: float


RINGS = {"circles": Rings((3.0, 1.5), 0.24), "rings": Rings((3.0, 2.25, 1.5, 0.75), 0.08)}
NOISE = {"moons": 0.2, "swissroll": 0.2, "2spirals": 0.1}  # standard deviation of both coordinates
SPIRAL_BOX = 0.5 / 3  # side of the square over which a point of 2spirals is smeared, before its noise
GAUSSIANS_RADIUS, GAUSSIANS_NOISE = 4 / 1.414, 0.5 / 1.414
ARMS, ARM_RADIAL, ARM_TANGENTIAL, ARM_RATE, ARM_SCALE = 5, 0.3, 0.1, 0.25, 2.0


def draw(name: str, count: int, generator: torch.Generator) -> Tensor:
    """Independent points (count, 2) of a density, in float32."""
    check_name(name)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(count, 2, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator, dtype=torch.float64)

    def one_of(number: int) -> Tensor:
        return torch.randint(number, (count,), generator=generator)

    if name in RINGS:
        radius = torch.tensor(RINGS[name].radii, dtype=torch.float64)[one_of(len(RINGS[name].radii))]
        points = radius[:, None] * _unit(2 * math.pi * uniform()) + normal(RINGS[name].noise)
    elif name in NOISE:
        points = _curve(name, uniform(), one_of(2)) + normal(NOISE[name])
        if name == "2spirals":
            points = points + SPIRAL_BOX * (uniform(2) - 0.5)
    elif name == "8gaussians":
        points = GAUSSIANS_RADIUS * _unit(one_of(8) * (math.pi / 4)) + normal(GAUSSIANS_NOISE)
    elif name == "pinwheel":
        along, across = normal(1.0).unbind(1)
        along, across = 1 + ARM_RADIAL * along, ARM_TANGENTIAL * across
        angle = one_of(ARMS) * (2 * math.pi / ARMS) + ARM_RATE * along.exp()
        cos, sin = angle.cos(), angle.sin()
        points = ARM_SCALE * torch.stack([along * cos + across * sin, across * cos - along * sin], dim=1)
    else:
        x, y = (4 * uniform() - 2), uniform() - 2 * one_of(2)
        points = 2 * torch.stack([x, y + x.floor() % 2], dim=1)
    return points.float()


def log_density(name: str, points: Tensor) -> Tensor:
    """log p(x) in nats, (B,) float64, of points (B, 2); -inf outside the squares of "checkerboard"."""
    check_name(name)
    x = points.double()
    if name in RINGS:
        # a circle of radius R blurred by sigma: exp(-(r^2 + R^2) / 2 sigma^2) I_0(r R / sigma^2) / 2 pi sigma^2
        radii, noise = torch.tensor(RINGS[name].radii, dtype=x.dtype, device=x.device), RINGS[name].noise
        r = x.norm(dim=1, keepdim=True)
        rings = -((r - radii) ** 2) / (2 * noise**2) + torch.special.i0e(r * radii / noise**2).log()
        return rings.logsumexp(1) - math.log(2 * math.pi * noise**2 * len(radii))
    if name in NOISE:
        share = (torch.arange(NODES, dtype=x.dtype, device=x.device) + 0.5) / NODES
        first, second = (_curve(name, share, torch.full((NODES,), side, device=x.device)) for side in range(2))
        centres = first if name == "swissroll" else torch.cat([first, second])
        rows = x.split(max(1, CHUNK // len(centres)))
        return torch.cat([_blurred(part, centres, NOISE[name], boxed=name == "2spirals") for part in rows])
    if name == "8gaussians":
        centres = GAUSSIANS_RADIUS * _unit(torch.arange(8, dtype=x.dtype, device=x.device) * (math.pi / 4))
        return _blurred(x, centres, GAUSSIANS_NOISE, boxed=False)
    if name == "pinwheel":
        return _log_pinwheel(x)
    column, row = (x / 2).floor().unbind(1)
    inside = (x.abs() <= 4).all(1) & ((column + row) % 2 == 0)
    return torch.where(inside, x.new_tensor(-math.log(32)), -math.inf)


def entropy(name: str, spacing: float = 0.04, extent: float = 7.0) -> float:
    """-sum p log p h^2 in nats over a grid of spacing h on [-extent, extent]^2; it also checks that p sums to 1."""
    total = mass = 0.0
    line = torch.arange(-extent, extent + spacing / 2, spacing, dtype=torch.float64)
    for rows in line.split(max(1, 50_000 // len(line))):
        log_p = log_density(name, torch.cartesian_prod(rows, line))
        p = log_p.exp()
        mass += p.sum().item() * spacing**2
        total -= torch.special.xlogy(p, p).sum().item() * spacing**2
    assert abs(mass - 1) < 1e-4, (name, mass)
    return total


def check_name(name: str) -> None:
    """Raises a UserError for a name that is not one of NAMES."""
    if name not in NAMES:
        raise UserError(f"data.name must be one of {', '.join(NAMES)}, got {name!r}")


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _curve(name: str, share: Tensor, side: Tensor) -> Tensor:
    """The points (N, 2) of a curve at which a share (N,) of its mass is passed; `side` says which of two curves."""
    if name == "swissroll":
        angle = 1.5 * math.pi * (1 + 2 * share)
        return angle[:, None] / 5 * _unit(angle)
    sign = (1 - 2 * side).to(share.dtype)
    if name == "moons":
        # the unit circle's upper half, and its lower half about (1, 1/2); doubled and moved by (-1, -0.2)
        centre = torch.stack([side.to(share.dtype), side.to(share.dtype) / 2], dim=1)
        return 2 * (sign[:, None] * _unit(math.pi * share) + centre) - torch.tensor([1.0, 0.2]).to(share)
    angle = 3 * math.pi * share.sqrt()
    spiral = angle[:, None] * torch.stack([-angle.cos(), angle.sin()], dim=1) / 3 + SPIRAL_BOX / 2
    return sign[:, None] * spiral


def _blurred(x: Tensor, centres: Tensor, noise: float, *, boxed: bool) -> Tensor:
    """log of the mean over `centres` of a normal density, or of one convolved with a square of side SPIRAL_BOX.

    The latter is -inf beyond 37 standard deviations, where a double holds no smaller number.
    """
    if not boxed:
        kernel = -torch.cdist(x, centres).square() / (2 * noise**2)
        return kernel.logsumexp(1) - math.log(2 * math.pi * noise**2 * len(centres))
    away, half = (x[:, None] - centres).abs(), SPIRAL_BOX / 2  # (B, N, 2)
    # Phi(b) - Phi(a), both in the lower tail, where the difference keeps its digits
    near, far = (torch.erfc((away + shift) / (noise * math.sqrt(2))) for shift in (-half, half))
    return ((near - far) / (2 * SPIRAL_BOX)).prod(2).mean(1).log()


def _log_pinwheel(x: Tensor) -> Tensor:
    """An arm is (a, b) = (r cos u, r sin u), normal, turned by -ARM_RATE exp(a) - 2 pi k / 5: solve the angle for u.

    h(u) = u - ARM_RATE exp(r cos u) is monotone wherever an arm has mass: it turns only beyond seven standard
    deviations of b.
    """
    r, angle = (x / ARM_SCALE).norm(dim=1, keepdim=True), torch.atan2(x[:, 1:], x[:, :1])
    target = angle + torch.arange(ARMS, dtype=x.dtype, device=x.device) * (2 * math.pi / ARMS)  # (B, ARMS)

    def wrapped(value: Tensor) -> Tensor:
        return torch.remainder(value + math.pi, 2 * math.pi) - math.pi

    def slope(u: Tensor) -> Tensor:
        return 1 + ARM_RATE * r * u.sin() * (r * u.cos()).exp()

    u = wrapped(target + ARM_RATE * r.exp())
    for _ in range(20):
        miss = wrapped(u - ARM_RATE * (r * u.cos()).exp() - target)
        u = wrapped(u - (miss / slope(u).clamp(min=0.2)).clamp(-1, 1))
    solved = wrapped(u - ARM_RATE * (r * u.cos()).exp() - target).abs() < 1e-9
    along, across = (r * u.cos() - 1) / ARM_RADIAL, r * u.sin() / ARM_TANGENTIAL
    log_arm = -(along**2 + across**2) / 2 - math.log(2 * math.pi * ARM_RADIAL * ARM_TANGENTIAL * ARM_SCALE**2)
    log_arm = log_arm - slope(u).abs().clamp(min=1e-9).log()
    return torch.where(solved, log_arm, -math.inf).logsumexp(1) - math.log(ARMS)
