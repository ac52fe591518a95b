import numpy as np
import pytest
import torch

from zoo.errors import UserError
from zoo.pictures import image_grid

DARK = 40  # the lines between images


def test_layout_and_pixels_of_a_colour_grid():
    images = torch.rand(5, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = image_grid(images, columns=3, scale=1)
    assert grid.shape == (2 * 9 + 1, 3 * 7 + 1, 3)
    assert grid.dtype == np.uint8
    covered = np.zeros(grid.shape[:2], dtype=bool)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        top, left = 1 + 9 * row, 1 + 7 * column
        tile = grid[top : top + 8, left : left + 6].astype(float)
        # -1 is 0 and 1 is 255, rounded to the nearest: half a step
        np.testing.assert_allclose(tile, (image.permute(1, 2, 0).numpy() + 1) / 2 * 255, rtol=0, atol=0.501)
        covered[top : top + 8, left : left + 6] = True
    assert (grid[~covered] == DARK).all()  # the lines, and the place of the missing sixth image


def test_grey_images_become_three_equal_channels():
    images = torch.tensor([-1.0, 0.0, 1.0, -2.0, 3.0]).view(5, 1, 1, 1).expand(5, 1, 8, 6)
    grid = image_grid(images, columns=5, scale=1)
    assert (grid == grid[..., :1]).all()
    # the middle, 127.5, goes to the even neighbour; what lies outside the range is cut off
    assert [int(grid[1, 1 + 7 * i, 0]) for i in range(5)] == [0, 128, 255, 0, 255]


def test_scale_repeats_pixels():
    images = torch.rand(2, 3, 8, 6) * 2 - 1
    once, thrice = image_grid(images, columns=2, scale=1), image_grid(images, columns=2, scale=3)
    assert thrice.shape == (3 * 8 + 2, 2 * (3 * 6 + 1) + 1, 3)
    np.testing.assert_array_equal(thrice[1:-1:3, 1:19:3], once[1:-1, 1:7])
    np.testing.assert_array_equal(thrice[3:-1:3, 3:19:3], once[1:-1, 1:7])


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 3, 2), (9, 3, 3), (10, 4, 3), (7, 3, 3)])
def test_by_default_the_grid_is_about_square(count, columns, rows):
    grid = image_grid(torch.zeros(count, 1, 8, 6), scale=1)
    assert grid.shape == (rows * 9 + 1, columns * 7 + 1, 3)


@pytest.mark.parametrize(("width", "scale"), [(6, 6), (8, 4), (31, 2), (32, 1), (64, 1)])
def test_by_default_small_images_are_enlarged_to_32_pixels(width, scale):
    assert image_grid(torch.zeros(1, 1, 8, width)).shape == (8 * scale + 2, width * scale + 2, 3)


def test_images_are_not_changed():
    images = torch.full((5, 3, 8, 6), 2.0)
    image_grid(images)
    assert (images == 2).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_are_not_drawn(value):
    images = torch.zeros(4, 1, 8, 8)
    images[2, 0, 3, 3] = value
    with pytest.raises(UserError, match="not finite"):
        image_grid(images)
