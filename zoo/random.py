"""Random numbers that depend neither on the device a model runs on nor on how many samples are drawn at once."""

import math

import torch
from torch import Tensor

BLOCK = 16  # PyTorch draws normal numbers on the CPU in blocks of 16, and differently where a block is not full


def normal(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """z ~ N(0, I) of `shape` in float32 on `device`.

    With a generator on the CPU, row i holds the same numbers however many rows follow it, and the generator advances by
    one seed however many numbers are drawn. So sample 17 of a seed is the same one of 20 or of 64, on a CPU or a GPU. A
    generator on a GPU draws there, and its numbers depend on the shape.
    """
    if generator is None:
        return torch.randn(shape, device=device)
    if generator.device.type != "cpu":
        return torch.randn(shape, generator=generator, device=generator.device).to(device)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    count = math.prod(shape)
    blocks = torch.randn(
        -(-count // BLOCK) * BLOCK, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu"
    )
    return blocks[:count].view(shape).to(device)
