from types import SimpleNamespace

import pytest
import torch

from datamodules import Latents
from zoo.errors import UserError

SHAPE = (3, 4, 2)


def draws(rank=0, world_size=1, **options):
    """(draws, indices) of one process, and the sizes of its batches."""
    data = Latents(**{"image_shape": SHAPE, "num_samples": 11, **options})
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    batches = [*data.predict_dataloader()]
    return *map(torch.cat, zip(*batches, strict=True)), [len(index) for _, index in batches]


def test_draw_i_is_the_same_for_every_batch_size_and_number():
    expected, index, sizes = draws()
    assert expected.shape == (11, *SHAPE)
    assert index.tolist() == list(range(11))
    assert sizes == [11]
    for batch_size in (1, 4, 30):
        assert torch.equal(draws(batch_size=batch_size)[0], expected)
    assert draws(batch_size=4)[2] == [4, 4, 3]
    assert torch.equal(draws(num_samples=7)[0], expected[:7])


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_draws(world_size):
    expected = draws()[0]
    for rank in range(world_size):
        share, index, _ = draws(rank, world_size, batch_size=2)
        assert index.tolist() == list(range(rank, 11, world_size))
        assert torch.equal(share, expected[index])


def test_draws_are_standard_normal_and_each_its_own():
    latents = draws(num_samples=300)[0]
    size = latents.numel()  # 7200
    # four standard errors of a mean and of a variance
    assert latents.mean().abs() < 4 / size**0.5
    assert (latents.var() - 1).abs() < 4 * (2 / size) ** 0.5
    assert len(latents.flatten(1).unique(dim=0)) == 300
    assert not torch.equal(draws(seed=1)[0], draws(seed=2)[0])


def test_the_global_random_numbers_play_no_part():
    torch.manual_seed(0)
    first = draws()[0]
    torch.manual_seed(1)
    assert torch.equal(draws()[0], first)


@pytest.mark.parametrize("name", ["num_samples", "batch_size"])
@pytest.mark.parametrize("value", [0, -4])
def test_counts_below_one_are_refused(name, value):
    with pytest.raises(UserError, match=f"data.{name} must be at least 1, got {value}"):
        Latents(**{name: value})


def test_the_classes_of_the_model_that_they_are_for():
    assert Latents().num_classes == 0
    assert Latents(num_classes=(3, 6)).num_classes == (3, 6)
