"""Writes numbers and pixels to a file, whole or not at all."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.whole import written_whole

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def write_numbers(path: Path, numbers: "Tensor", name: str, header: str = "") -> None:
    """Rows of numbers as .npy, as .safetensors under a name, or as .csv below a header, by the ending of the path."""
    ending = path.suffix.lower()
    if ending == ".npy":
        import numpy as np

        content = io.BytesIO()  # given a file, numpy would hide why a write failed
        np.save(content, numbers.numpy())
        data = content.getvalue()
    elif ending == ".csv":
        rows = numbers.view(len(numbers), -1).numpy()
        lines = [header, *(",".join(map(str, row)) for row in rows)]
        data = "".join(f"{line}\n" for line in lines if line).encode()
    else:
        from safetensors.torch import save

        data = save({name: numbers.contiguous()})
    with written_whole(path) as beside:
        beside.write_bytes(data)


def write_pixels(path: Path, pixels: "np.ndarray") -> None:
    """Pixels (height, width, 3) of 0 ... 255 as a picture."""
    from PIL import Image

    with written_whole(path) as beside:
        Image.fromarray(pixels).save(beside)
