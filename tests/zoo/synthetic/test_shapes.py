import math

import pytest
import torch

from zoo.synthetic.shapes import COLOURS, PALETTE, SHAPES, Drawing, nearest_drawing, random_drawings, render

SIDE = 32


@pytest.fixture(scope="module")
def drawings():
    return random_drawings(400, SIDE, torch.Generator().manual_seed(0))


def one(shape, colour=0, centre=(16.0, 16.0), size=6.0):
    return Drawing(torch.tensor([shape]), torch.tensor([colour]), torch.tensor([centre]), torch.tensor([size]))


def test_what_is_drawn_is_found_again(drawings):
    found, error = nearest_drawing(render(drawings, SIDE))
    assert torch.equal(found.shape, drawings.shape)
    assert torch.equal(found.colour, drawings.colour)
    assert (found.centre - drawings.centre).abs().max() < 0.05  # pixels
    assert (found.size - drawings.size).abs().max() < 0.05
    assert error.max() < 0.005


def test_noise_of_one_hundredth_is_an_error_of_one_hundredth(drawings):
    noise = 2 * 0.01 * torch.randn(400, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found, error = nearest_drawing(render(drawings, SIDE) + noise)
    assert torch.equal(found.shape, drawings.shape)
    assert torch.equal(found.colour, drawings.colour)
    # of 3072 numbers: a relative standard deviation of 1 / sqrt(2 * 3072) = 0.013, four of them and the fit's own
    assert error.min() > 0.009
    assert error.max() < 0.011


def test_what_is_no_shape_has_a_large_error():
    noise = torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    two = torch.maximum(render(one(0, 0, (8.0, 8.0), 5.0), SIDE), render(one(1, 2, (23.0, 23.0), 5.0), SIDE))
    mixed = (render(one(0), SIDE) + render(one(2), SIDE)) / 2
    grey = torch.zeros(1, 3, SIDE, SIDE)
    for pictures in (noise, two, mixed, grey):
        assert nearest_drawing(pictures)[1].min() > 0.03


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_all_shapes_of_a_size_have_one_area(shape):
    light = (render(one(shape), SIDE)[0, 0] + 1) / 2
    # the corners of the one pixel wide edge round off less than half a pixel of area each
    assert abs(light.sum() - math.pi * 36) < 2


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_the_middle_has_the_colour_and_the_corner_none(colour):
    picture = render(one(1, colour), SIDE)[0]
    assert picture[:, 16, 16].tolist() == [2 * part - 1 for part in PALETTE[colour]]
    assert (picture[:, 0, 0] == -1).all()


def test_pictures_stay_inside_and_shapes_in_their_limits(drawings):
    pictures = render(drawings, SIDE)
    assert pictures.shape == (400, 3, SIDE, SIDE)
    assert pictures.min() == -1
    assert pictures.max() == 1
    border = torch.cat([pictures[..., 0, :], pictures[..., -1, :], pictures[..., 0], pictures[..., -1]], dim=-1)
    assert (border < 0).all(), "at most the soft half of an edge"
    assert drawings.size.min() >= SIDE / 8
    assert drawings.size.max() <= SIDE / 4
    # all 18 kinds, uniform: binomial(400, 1/18) is 22 +- 4.6
    counts = torch.bincount(drawings.shape * 6 + drawings.colour, minlength=18)
    assert counts.min() > 4
    assert counts.max() < 45


def test_drawings_are_decided_by_the_generator(drawings):
    again = random_drawings(400, SIDE, torch.Generator().manual_seed(0))
    assert all(torch.equal(*pair) for pair in zip(drawings, again, strict=True))
    other = random_drawings(400, SIDE, torch.Generator().manual_seed(1))
    assert not torch.equal(drawings.centre, other.centre)


def test_another_side_and_many_pictures_at_once():
    drawing = random_drawings(1001, 16, torch.Generator().manual_seed(0))
    pictures = render(drawing, 16)
    last = Drawing(*(part[-1:] for part in drawing))
    torch.testing.assert_close(pictures[-1:], render(last, 16))
