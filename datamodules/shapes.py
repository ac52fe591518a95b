"""Coloured shapes: any number of images drawn from a seed, all of whose properties are known."""

import torch

from datamodules.images import ImageDataModule
from datamodules.memory import Split
from zoo.errors import UserError
from zoo.synthetic.scenes import ABSENT, random_scenes, render_scenes
from zoo.synthetic.shapes import COLOURS, SHAPES, random_drawings, render


class Shapes(ImageDataModule):
    """Shapes (circle, square, triangle) of one of six colours on black, anywhere, of any size: RGB, one by default.

    Labels have two columns for each shape, its kind and its colour. Several shapes do not touch, and their columns go
    from left to right: `square,red,circle,blue,none,none`, where "none" is a third shape that is not there. Validation
    and test pictures do not depend on `drawing_seed` or on the number of training pictures. How they are drawn:
    `zoo.synthetic.shapes` and `zoo.synthetic.scenes`.

    Args:
        num_train: training pictures, of 3 side^2 bytes.
        drawing_seed: of the training pictures.
        batch_size, batches_per_epoch, horizontal_flip, seed: see `ImageDataModule`.
        side: of a picture, in pixels.
        num_shapes: in a picture: 1; 2; or 3, of which half of the pictures lack one.
    """

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
        side: int = 32,
        num_shapes: int = 1,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, horizontal_flip, seed)
        if num_train < 1:
            raise UserError(f"data.num_train must be at least 1, got {num_train}")
        if drawing_seed < 0:
            raise UserError(f"data.drawing_seed must be at least 0, got {drawing_seed}")
        if side < 16:
            raise UserError(f"data.side must be at least 16, got {side}")
        if num_shapes not in (1, 2, 3):
            raise UserError(f"data.num_shapes must be 1, 2 or 3, got {num_shapes}")
        self.num_train, self.drawing_seed, self.num_shapes = num_train, drawing_seed, num_shapes
        self.image_shape = (3, side, side)
        last = ((*SHAPES, ABSENT), (*COLOURS, ABSENT)) if num_shapes == 3 else (SHAPES, COLOURS)
        self.label_names = ((SHAPES, COLOURS) * (num_shapes - 1)) + last
        self.num_classes = tuple(len(names) for names in self.label_names)
        if num_shapes > 1:
            self.protocol = "samples"  # the drawing nearest to a picture is known for one shape only

    def _read(self) -> dict[str, Split]:
        seeds = {"val": 0, "test": 1, "train": 2 + self.drawing_seed}
        counts = {"val": self.num_val, "test": self.num_test, "train": self.num_train}
        return {split: self._draw(counts[split], seed) for split, seed in seeds.items()}

    def _draw(self, count: int, seed: int) -> Split:
        """Pictures (N, 3, side, side) uint8 and labels (N, 2 num_shapes): shape, colour, shape, colour ..."""
        side, generator = self.image_shape[1], torch.Generator().manual_seed(seed)
        if self.num_shapes == 1:
            drawing = random_drawings(count, side, generator)
            pictures = render(drawing, side)
        else:
            drawing = random_scenes(count, side, self.num_shapes, generator)
            pictures = render_scenes(drawing, side)
        return ((pictures + 1) * 127.5).round().byte(), torch.stack([drawing.shape, drawing.colour], -1).flatten(1)
