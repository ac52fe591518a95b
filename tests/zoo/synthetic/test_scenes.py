import pytest
import torch

from zoo.synthetic.scenes import random_scenes, render_scenes
from zoo.synthetic.shapes import COLOURS, PALETTE, SHAPES, Drawing, nearest_drawing, render

SIDE = 64


@pytest.fixture(scope="module", params=[2, 3])
def scenes(request):
    return random_scenes(300, SIDE, request.param, torch.Generator().manual_seed(0))


def test_every_shape_is_whole_and_alone(scenes):
    """Each is found again in the picture of its own light."""
    pictures = render_scenes(scenes, SIDE)
    assert pictures.min() == -1
    assert pictures.max() <= 1, "no light is added to another's"
    for place in range(scenes.shape.shape[1]):
        there = (scenes.shape[:, place] < len(SHAPES)).nonzero()[:20, 0]
        alone = Drawing(*(part[there, place] for part in scenes))
        found, error = nearest_drawing(render(alone, SIDE))
        assert torch.equal(found.shape, alone.shape)
        assert (found.centre - alone.centre).abs().max() < 0.05
        assert error.max() < 0.005
        x, y = alone.centre.long().T
        middle = pictures[there, :, y, x]
        assert torch.equal(middle, 2 * torch.tensor(PALETTE, dtype=torch.float32)[alone.colour] - 1)


def test_they_go_from_left_to_right_and_the_third_is_there_half_of_the_time(scenes):
    there = scenes.shape < len(SHAPES)
    assert torch.equal(there, scenes.colour < len(COLOURS))
    x = scenes.centre[..., 0].masked_fill(~there, float("inf"))
    assert (x.diff(dim=1) > 0).logical_or(~there[:, 1:]).all()
    assert there[:, :2].all()
    if there.shape[1] == 3:
        assert 120 < there[:, 2].sum() < 180  # binomial(300, 1/2) is 150 +- 8.7


def test_scenes_are_decided_by_the_generator(scenes):
    again = random_scenes(300, SIDE, scenes.shape.shape[1], torch.Generator().manual_seed(0))
    assert all(torch.equal(*pair) for pair in zip(scenes, again, strict=True))
