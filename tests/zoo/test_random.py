import pytest
import torch

from zoo.random import normal, per_row


def test_a_seed_gives_the_same_numbers_whatever_the_global_seed():
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(normal((5, 3), torch.Generator().manual_seed(7), "cpu"))
    assert torch.equal(*drawn)
    assert drawn[0].shape == (5, 3)
    assert drawn[0].dtype == torch.float32
    assert not torch.equal(drawn[0], normal((5, 3), torch.Generator().manual_seed(8), "cpu"))


def test_a_generator_moves_on():
    generator = torch.Generator().manual_seed(7)
    assert not torch.equal(normal((5, 3), generator, "cpu"), normal((5, 3), generator, "cpu"))


def test_without_a_generator_the_global_one_is_used():
    torch.manual_seed(3)
    first = normal(torch.Size((5, 3)), None, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(first, torch.randn(5, 3))


def test_a_cpu_generator_serves_any_device():
    """The numbers are drawn on the CPU, as many as there would be there, and then moved."""
    here, there = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    normal((5, 3), here, "cpu")
    moved = normal((5, 3), there, "meta")
    assert moved.device.type == "meta"
    assert moved.shape == (5, 3)
    assert torch.equal(here.get_state(), there.get_state())


def test_the_law_is_standard_normal():
    z = normal((50_000,), torch.Generator().manual_seed(0), "cpu").double()
    assert abs(z.mean()) < 4 / 50_000**0.5  # 4 standard errors
    assert abs(z.var() - 1) < 4 * (2 / 50_000) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / 50_000) ** 0.5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("row", [(1,), (2,), (3, 5), (1, 8, 8), (3, 7, 5)])
def test_a_row_is_the_same_however_many_follow(row):
    many = normal((64, *row), per_row(seeded()), "cpu")
    assert many.shape == (64, *row)
    for count in (1, 2, 17, 63):
        assert torch.equal(normal((count, *row), per_row(seeded()), "cpu"), many[:count])


def test_the_generator_advances_alike_however_many_are_drawn():
    few, many = per_row(seeded()), per_row(seeded())
    normal((1, 3), few, "cpu")
    normal((64, 3), many, "cpu")
    assert torch.equal(normal((5, 3), few, "cpu"), normal((5, 3), many, "cpu"))


def test_the_numbers_are_normal_and_independent():
    source = per_row(seeded())
    drawn = torch.stack([normal((50, 7), source, "cpu") for _ in range(400)]).flatten(1).double()  # (400, 350)
    count = drawn.numel()
    assert abs(drawn.mean()) < 4 / count**0.5
    assert abs(drawn.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((drawn**4).mean() - 3) < 4 * (96 / count) ** 0.5
    correlations = torch.corrcoef(drawn.T).fill_diagonal_(0)
    assert correlations.abs().max() < 6 / 400**0.5  # of 61,075 pairs
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 4 / count**0.5  # from one draw to the next


@pytest.mark.parametrize("source", [None, seeded(), per_row(seeded())])
def test_float32_whatever_the_default_type(source):
    torch.set_default_dtype(torch.float64)
    try:
        assert normal((3, 4), source, "cpu").dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_a_generator_there_are_no_rows():
    assert per_row(None) is None
