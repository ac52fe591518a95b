"""Pictures of two or three coloured shapes on black that do not touch, ordered from left to right."""

import torch
from torch import Tensor

from zoo.synthetic.shapes import COLOURS, RADIUS, SHAPES, Drawing, render

ABSENT = "none"  # the name of the class beyond the last one, of a shape that is not there
REACH = torch.tensor((1.0, 2**0.5, 2.0)) * torch.tensor(RADIUS)  # of SHAPES at size 1: from the centre to a corner


def random_scenes(count: int, side: int, places: int, generator: torch.Generator) -> Drawing:
    """Shapes and colours uniform, sizes uniform in side / 12 ... side / 7, centres uniform, redrawn until none touch.

    Args:
        places: 2, or 3 of which the third is absent in half of the pictures.

    Returns:
        The drawing with (N, places) in place of (N,), and (N, places, 2) in place of (N, 2). What is absent is last,
        has the class len(SHAPES) and len(COLOURS), and its centre and size have no meaning.
    """
    shape = torch.randint(len(SHAPES), (count, places), generator=generator)
    colour = torch.randint(len(COLOURS), (count, places), generator=generator)
    there = torch.ones(count, places, dtype=torch.bool)
    if places == 3:
        there[:, 2] = torch.rand(count, generator=generator) < 0.5
    size, centre = torch.zeros(count, places), torch.zeros(count, places, 2)
    touching = torch.ones(count, dtype=torch.bool)
    while touching.any():
        n = int(touching.sum())
        size[touching] = side * (1 / 12 + torch.rand(n, places, generator=generator) * (1 / 7 - 1 / 12))
        reach = size * REACH[shape]
        inset = reach[touching, :, None] + 1
        centre[touching] = inset + (side - 2 * inset) * torch.rand(n, places, 2, generator=generator)
        apart = torch.cdist(centre, centre) > reach[:, :, None] + reach[:, None] + 1
        apart |= ~(there[:, :, None] & there[:, None]) | torch.eye(places, dtype=torch.bool)
        touching = ~apart.all((1, 2))
    shape, colour = shape.masked_fill(~there, len(SHAPES)), colour.masked_fill(~there, len(COLOURS))
    order = centre[..., 0].masked_fill(~there, float("inf")).argsort(1)
    parts = (part.gather(1, order) for part in (shape, colour, size))
    shape, colour, size = parts
    return Drawing(shape, colour, centre.gather(1, order[..., None].expand_as(centre)), size)


def render_scenes(drawing: Drawing, side: int) -> Tensor:
    """The pictures of scenes, (N, 3, side, side) in [-1, 1]."""
    pictures = torch.full((len(drawing.shape), 3, side, side), -1.0)
    for place in range(drawing.shape.shape[1]):
        one = Drawing(*(part[:, place] for part in drawing))
        there = one.shape < len(SHAPES)
        pictures[there] += render(Drawing(*(part[there] for part in one)), side) + 1
    return pictures
