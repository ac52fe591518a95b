"""Random numbers that do not depend on the device a model runs on."""

import torch
from torch import Tensor


def normal(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """z ~ N(0, I) of `shape` in float32 on `device`.

    With a generator, the numbers are drawn where the generator lives and then moved: a CPU generator gives the same
    picture on a CPU and on a GPU.
    """
    if generator is None:
        return torch.randn(shape, device=device)
    return torch.randn(shape, generator=generator, device=generator.device).to(device)
