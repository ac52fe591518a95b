"""Coloured shapes: any number of images drawn from a seed, all of whose properties are known."""

import torch

from datamodules.images import ImageDataModule
from datamodules.memory import Split
from zoo.errors import UserError
from zoo.synthetic.shapes import COLOURS, SHAPES, random_drawings, render


class Shapes(ImageDataModule):
    """One shape (circle, square, triangle) of one of six colours on black, anywhere, of any size: 32x32 RGB.

    Labels have two columns, shape and colour. Validation and test pictures do not depend on `drawing_seed`
    or on the number of training pictures. How they are drawn: `zoo.synthetic.shapes`.

    Args:
        num_train: training pictures, 3 KB each.
        drawing_seed: of the training pictures.
        batch_size, batches_per_epoch, horizontal_flip, seed: see `ImageDataModule`.
    """

    image_shape = (3, 32, 32)
    num_classes = (len(SHAPES), len(COLOURS))
    label_names = (SHAPES, COLOURS)
    protocol = "shapes"
    num_val, num_test = 1000, 2000

    def __init__(
        self,
        num_train: int = 20_000,
        drawing_seed: int = 0,
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, horizontal_flip, seed)
        if num_train < 1:
            raise UserError(f"data.num_train must be at least 1, got {num_train}")
        if drawing_seed < 0:
            raise UserError(f"data.drawing_seed must be at least 0, got {drawing_seed}")
        self.num_train, self.drawing_seed = num_train, drawing_seed

    def _read(self) -> dict[str, Split]:
        seeds = {"val": 0, "test": 1, "train": 2 + self.drawing_seed}
        counts = {"val": self.num_val, "test": self.num_test, "train": self.num_train}
        return {split: _draw(counts[split], self.image_shape[1], seed) for split, seed in seeds.items()}


def _draw(count: int, side: int, seed: int) -> Split:
    """Pictures (N, 3, side, side) uint8 and labels (N, 2): shape, colour."""
    drawing = random_drawings(count, side, torch.Generator().manual_seed(seed))
    pictures = ((render(drawing, side) + 1) * 127.5).round().byte()
    return pictures, torch.stack([drawing.shape, drawing.colour], dim=1)
