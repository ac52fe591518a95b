"""Pictures of one coloured shape on black: how they are drawn, and the drawing nearest to any picture.

With the gauge g of a shape (its unit "ball"), a pixel at offset q from the centre has the coverage

    coverage(q) = clamp(radius - g(q) + 1/2, 0, 1),

an edge one pixel wide; the picture is coverage times colour. All shapes of one size have the same area.
Letters: N pictures, P = side * side pixels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan")
PALETTE = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))  # of COLOURS, in RGB
RADIUS = (1.0, math.sqrt(math.pi) / 2, math.sqrt(math.pi / math.sqrt(27)))  # of SHAPES at size 1: all have area pi
# a polygon's gauge is the largest product of the offset (x right, y down) with its outward normals
_NORMALS = {
    1: ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)),
    2: ((0.0, 1.0), (math.sqrt(0.75), -0.5), (-math.sqrt(0.75), -0.5)),
}


class Drawing(NamedTuple):
    """What a picture shows: shape (N,) and colour (N,) int64, centre (N, 2) as x and y, size (N,), both in pixels."""

    shape: Tensor
    colour: Tensor
    centre: Tensor
    size: Tensor


def random_drawings(count: int, side: int, generator: torch.Generator) -> Drawing:
    """Shape and colour uniform, size uniform in side / 8 ... side / 4, centre uniform where the shape stays inside."""
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    colour = torch.randint(len(COLOURS), (count,), generator=generator)
    size = side * (1 + torch.rand(count, generator=generator)) / 8
    inner = size * torch.tensor(RADIUS)[shape]
    triangle = (shape == 2).float()
    half_width = inner * (1 + triangle * (math.sqrt(3) - 1))
    above, below = inner * (1 + triangle), inner  # a triangle's tip is twice as far as its base
    low = torch.stack([half_width, above], dim=1) + 1
    high = side - 1 - torch.stack([half_width, below], dim=1)
    centre = low + (high - low) * torch.rand(count, 2, generator=generator)
    return Drawing(shape, colour, centre, size)


def render(drawing: Drawing, side: int) -> Tensor:
    """The pictures of drawings, (N, 3, side, side) in [-1, 1]."""
    pictures = torch.empty(len(drawing.shape), 3, side, side)
    palette = torch.tensor(PALETTE, dtype=torch.float32)
    for rows in torch.arange(len(pictures)).split(1000):
        shape, colour, centre, size = (part[rows] for part in drawing)
        coverage = torch.empty(len(rows), side * side)
        for kind in range(len(SHAPES)):
            here = shape == kind
            coverage[here] = _coverage(kind, centre[here], size[here], side)[0]
        pictures[rows] = 2 * (palette[colour][:, :, None] * coverage[:, None]).view(-1, 3, side, side) - 1
    return pictures


def nearest_drawing(pictures: Tensor, iterations: int = 15) -> tuple[Drawing, Tensor]:
    """The drawing whose rendering has the least squared distance to a picture, and that distance.

    For each shape and the two likeliest colours, centre and size are fitted by the Levenberg-Marquardt method from the
    picture's moments; the best fit is the answer.

    Args:
        pictures: (N, 3, side, side) in [-1, 1], whatever they show.
        iterations: steps of each fit.

    Returns:
        The drawings, and the root mean squared error (N,) in units of the full range: 0.01 is one hundredth of it.
    """
    side = pictures.shape[-1]
    drawings, errors = [], []
    for batch in pictures.float().split(250):
        light = (batch.flatten(2) + 1) / 2  # (N, 3, P) in 0 ... 1
        palette = torch.tensor(PALETTE, dtype=light.dtype, device=light.device)
        # the best coverage of each colour, and what of the light it leaves
        fitted = (palette @ light / palette.sum(1)[:, None]).clamp(0, 1)  # (N, colours, P)
        left = (light[:, None] - palette[:, :, None] * fitted[:, :, None]).square().sum((2, 3))  # (N, colours)
        best: tuple[Tensor, Drawing] | None = None
        for colour in left.topk(2, largest=False).indices.T:
            goal = fitted[torch.arange(len(batch)), colour]  # (N, P)
            for kind in range(len(SHAPES)):
                centre, size = _fit(kind, goal, side, iterations)
                coverage = _coverage(kind, centre, size, side)[0]
                rest = light - palette[colour][:, :, None] * coverage[:, None]
                error = rest.square().mean((1, 2)).sqrt()
                drawing = Drawing(torch.full_like(colour, kind), colour, centre, size)
                if best is None:
                    best = error, drawing
                    continue
                better = error < best[0]
                merged = [
                    torch.where(better if new.ndim == 1 else better[:, None], new, old)
                    for new, old in zip(drawing, best[1], strict=True)
                ]
                best = torch.minimum(error, best[0]), Drawing(*merged)
        assert best is not None
        errors.append(best[0])
        drawings.append(best[1])
    return Drawing(*(torch.cat(parts) for parts in zip(*drawings, strict=True))), torch.cat(errors)


def _coverage(kind: int, centre: Tensor, size: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Coverage (N, P) of one kind of shape, and its derivative by (x, y, size), (N, P, 3)."""
    middles = torch.arange(side, dtype=centre.dtype, device=centre.device) + 0.5
    y, x = (axis.flatten() for axis in torch.meshgrid(middles, middles, indexing="ij"))
    offset = torch.stack([x, y], dim=1) - centre[:, None]  # (N, P, 2)
    if kind == 0:
        gauge = offset.norm(dim=2)
        outward = offset / gauge.clamp(min=1e-6)[..., None]
    else:
        normals = torch.tensor(_NORMALS[kind], dtype=centre.dtype, device=centre.device)
        gauge, side_of = (offset @ normals.T).max(dim=2)
        outward = normals[side_of]
    raw = RADIUS[kind] * size[:, None] - gauge + 0.5
    # wider than the edge itself, so that a fit also feels the pixel that an edge is about to enter
    edge = ((raw > -0.5) & (raw < 1.5)).to(centre.dtype)
    growth = torch.full_like(gauge, RADIUS[kind])[..., None]
    return raw.clamp(0, 1), torch.cat([outward, growth], dim=2) * edge[..., None]


def _fit(kind: int, goal: Tensor, side: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Centre (N, 2) and size (N,) of the shape whose coverage is nearest to the goal (N, P)."""
    middles = torch.arange(side, dtype=goal.dtype, device=goal.device) + 0.5
    lit = torch.where(goal > 0.1, goal, torch.zeros_like(goal))  # noise on the black would pull to the middle
    mass = lit.sum(1).clamp(min=1e-3)
    image = lit.view(-1, side, side)
    centre = torch.stack([image.sum(1) @ middles, image.sum(2) @ middles], dim=1) / mass[:, None]
    size = (mass / math.pi).sqrt()  # for every shape: their areas are equal
    state = torch.cat([centre, size[:, None]], dim=1)  # (N, 3)
    damping = torch.full_like(mass, 1.0)
    coverage, derivative = _coverage(kind, state[:, :2], state[:, 2], side)
    rest = goal - coverage
    error = rest.square().sum(1)
    identity = torch.eye(3, dtype=goal.dtype, device=goal.device)
    for _ in range(iterations):
        normal = derivative.mT @ derivative + damping[:, None, None] * identity
        step = torch.linalg.solve(normal, (derivative.mT @ rest[..., None]))[..., 0]
        moved = state + step.clamp(-2, 2)  # an edge is one pixel wide: further than two, its derivative says nothing
        moved = torch.cat([moved[:, :2], moved[:, 2:].clamp(0.5, side)], dim=1)
        coverage, new_derivative = _coverage(kind, moved[:, :2], moved[:, 2], side)
        new_rest = goal - coverage
        new_error = new_rest.square().sum(1)
        better = new_error < error
        state = torch.where(better[:, None], moved, state)
        rest = torch.where(better[:, None], new_rest, rest)
        derivative = torch.where(better[:, None, None], new_derivative, derivative)
        error = torch.where(better, new_error, error)
        damping = torch.where(better, damping / 4, damping * 8).clamp(1e-3, 1e6)
    return state[:, :2], state[:, 2]
