"""Random numbers that do not depend on the device a model runs on, nor, by rows, on how many samples are drawn."""

import math

import torch
from torch import Tensor

BLOCK = 16  # PyTorch draws normal numbers on the CPU in blocks of 16, and differently where a block is not full


class RowNoise:
    """A source of noise for `normal` in which row i holds the same numbers however many rows follow it.

    So sample 17 of a seed is the same one of 20 or of 64. Each draw takes one seed from the generator, whatever its
    size, and costs some 10 microseconds more than a plain one.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """z ~ N(0, I) of `shape` in float32 on the CPU."""
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator, device=self.generator.device))
        count, own = math.prod(shape), torch.Generator().manual_seed(seed)
        blocks = torch.randn(-(-count // BLOCK) * BLOCK, generator=own, dtype=torch.float32, device="cpu")
        return blocks[:count].view(shape)


Source = torch.Generator | RowNoise | None


def per_row(generator: torch.Generator | None) -> RowNoise | None:
    """The generator as a source of `RowNoise`; None stays None."""
    return None if generator is None else RowNoise(generator)


def normal(shape: tuple[int, ...] | torch.Size, generator: Source, device: torch.device | str) -> Tensor:
    """z ~ N(0, I) of `shape` in float32 on `device`.

    With a generator, the numbers are drawn where the generator lives and then moved: a CPU generator gives the same
    picture on a CPU and on a GPU.
    """
    if isinstance(generator, RowNoise):
        return generator.normal(shape).to(device)
    if generator is None:
        return torch.randn(shape, dtype=torch.float32, device=device)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device).to(device)
