import pytest
import torch

from zoo.nn.augment import affine, random_affine, random_affine_on_grid, random_amounts
from zoo.nn.unet import AMOUNTS


def test_without_strength_nothing_moves():
    images = torch.rand(5, 3, 8, 6) * 2 - 1
    # interpolation weights of 0 and 1, up to the rounding of pixel positions in float32
    torch.testing.assert_close(random_affine(images, strength=0.0), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("background", [-1.0, 0.25])
def test_what_comes_in_from_outside_is_background(background):
    empty = torch.full((5, 3, 8, 6), background)
    torch.testing.assert_close(random_affine(empty, 3.0, background=background), empty, rtol=0, atol=0)
    full = torch.full((200, 3, 8, 6), 0.75)
    moved = random_affine(full, 3.0, background=background)
    assert moved.shape == full.shape
    # a mixture of image and background, both of which are seen; one more rounding of float32
    assert moved.min() == pytest.approx(background, abs=1e-6)
    assert moved.max() == pytest.approx(0.75, abs=1e-6)


def test_each_image_moves_by_itself_and_its_channels_together():
    images = torch.randn(1, 1, 8, 6).expand(5, 3, 8, 6)
    moved = random_affine(images)
    for i in range(4):
        assert not torch.allclose(moved[i], moved[i + 1], rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[:, :1].expand(-1, 3, -1, -1), moved)


def test_an_image_moves_with_its_probability():
    images = torch.randn(1000, 3, 8, 6)
    assert torch.equal(random_affine(images, probability=0.0), images)
    moved = (random_affine(images, probability=0.3) != images).flatten(1).any(1).float().mean()
    assert abs(moved - 0.3) < 4 * (0.3 * 0.7 / 1000) ** 0.5  # 4 standard errors


def blobs(count, height, width):
    """Images of one round blob in the middle, 0 elsewhere, and the coordinates of their pixels."""
    y, x = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    blob = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 3.0**2))
    return blob.expand(count, 1, height, width), y, x


def test_shifts_reach_7_percent_of_the_side_and_no_further():
    images, y, x = blobs(500, 40, 60)
    moved = random_affine(images, background=0.0)[:, 0]
    mass = moved.sum((1, 2))
    for coordinate, axis, side in ((y, 2, 40), (x, 1, 60)):
        centre = (moved.sum(axis) @ coordinate / mass).abs() / side
        # the map is x -> A x + b, so the centre moves by A^-1 b: |b| <= 0.075, and A stretches by 10 % and shears a
        # little, by the other side's shift too
        assert centre.max() < 0.075 * 1.6
        assert centre.max() > 0.075 * 0.9  # of 500 uniform draws
        assert centre.mean() == pytest.approx(0.075 / 2, rel=0.15)  # of |uniform|; standard error 2.6 %


def test_strength_multiplies_the_movement():
    images, y, _ = blobs(500, 40, 60)
    centres = []
    for strength in (0.5, 1.0):
        torch.manual_seed(0)  # the same draws
        moved = random_affine(images, strength, background=0.0)[:, 0]
        centres.append((moved.sum(2) @ y / moved.sum((1, 2))).abs().mean())
    assert centres[1] / centres[0] == pytest.approx(2, rel=0.05)  # up to what stretching adds, of second order


def test_amounts_say_how_an_image_moves():
    images, y, x = blobs(AMOUNTS + 1, 40, 60)
    amounts = torch.cat([torch.zeros(1, AMOUNTS), torch.eye(AMOUNTS)])
    moved = affine(images.contiguous(), amounts, background=0.0)
    assert torch.equal(moved[0], images[0])
    mass = moved.sum((2, 3))[:, 0]
    right, down = ((moved[:, 0].sum(axis) @ place) / mass for axis, place in ((1, x), (2, y)))
    # a shift of 7.5 % of the side by the last two; the grid says where a pixel comes from, so the image moves back
    torch.testing.assert_close(right[5:], torch.tensor([-0.075 * 60, 0.0]), rtol=0, atol=2e-3)
    torch.testing.assert_close(down[5:], torch.tensor([0.0, -0.075 * 40]), rtol=0, atol=2e-3)
    # a scale of 1.1 makes it narrower, in one direction each
    spread = [(moved[:, 0].sum(axis) @ place**2 / mass).sqrt() for axis, place in ((1, x), (2, y))]
    torch.testing.assert_close(spread[0][3] / spread[0][0], torch.tensor(1 / 1.1), rtol=0.02, atol=0)
    torch.testing.assert_close(
        spread[1][4] / spread[1][0], torch.tensor(1 / 1.1), rtol=0.02, atol=0
    )  # pixels smooth a little


def test_amounts_are_uniform_and_all_zero_for_images_that_stay():
    amounts = random_amounts(torch.zeros(4000, 1, 2, 2), probability=0.25)
    moved = amounts[(amounts != 0).any(1)]
    assert abs(len(moved) / 4000 - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5  # 4 standard errors
    assert moved.abs().max() <= 1
    # variance 1/3 of a uniform number, correlations 0: standard errors of 1,000 rows 0.0094 and 0.011
    covariance = moved.T @ moved / len(moved)
    assert (covariance - torch.eye(AMOUNTS) / 3).abs().max() < 0.05


@pytest.mark.parametrize("levels", [2, 5])
def test_moved_images_stay_on_their_grid_and_as_bright(levels):
    """Of two levels, the share of white is the grey that interpolation gives: within five standard errors."""
    torch.manual_seed(0)
    images = torch.randint(levels, (400, 1, 8, 8)) * (2 / (levels - 1)) - 1
    images[:, :, :2], images[:, :, -2:], images[..., :2], images[..., -2:] = -1, -1, -1, -1  # nothing leaves
    assert random_affine_on_grid(images, levels, 0.0, 1.0) is images
    torch.manual_seed(1)
    moved = random_affine_on_grid(images, levels, 0.5, 1.0)
    index = (moved + 1) * ((levels - 1) / 2)
    torch.testing.assert_close(index, index.round())
    torch.manual_seed(1)
    grey = random_affine(images, 0.5, 1.0)
    assert not torch.equal(moved, grey)
    assert (moved.mean() - grey.mean()).abs() < 5 / images.numel() ** 0.5
