import torch

from zoo.random import normal


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
