"""Pictures that compare sets of images."""

from pathlib import Path

from torch import Tensor

from checkpoints.whole import written_whole
from zoo.pictures import image_grid


def draw_panels(path: Path, panels: list[tuple[str, Tensor]], columns: int = 10) -> None:
    """Writes sets of images side by side, each a grid under its title.

    Args:
        path: the PNG to write. panels: (title, images (N, C, H, W) in [-1, 1]). columns: images a row in each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels), 4.6), layout="constrained")
    for axes, (title, images) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(image_grid(images, columns), interpolation="nearest")
        axes.set_title(title)
        axes.axis("off")
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=110)
