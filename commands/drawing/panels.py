"""Pictures made of many images: sets side by side, and grids whose rows and columns have names."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from checkpoints.whole import written_whole
from zoo.pictures import image_grid

DPI, POINTS = 100, 10  # of a picture, and the size of its letters
LETTER, LINE = 8, 19  # pixels: about the width of a letter, and the height of a line
MARGIN = 8  # pixels about each panel
CELL = 44  # pixels that a small image is at least wide


class Panel(NamedTuple):
    """A grid of images under a title.

    Attributes:
        title: long lines are broken to the width of the grid.
        images: (N, C, H, W) in [-1, 1].
        columns: images a row.
        row_names, column_names: one for each row and column, or none.
    """

    title: str
    images: Tensor
    columns: int
    row_names: Sequence[str] = ()
    column_names: Sequence[str] = ()


def draw_panels(path: Path, panels: list[tuple[str, Tensor]], columns: int = 10) -> None:
    """Writes sets of images side by side as a PNG: (title, images (N, C, H, W) in [-1, 1]), `columns` images a row."""
    draw(path, [Panel(title, images, columns) for title, images in panels])


def draw(path: Path, panels: list[Panel]) -> None:
    """Writes panels side by side as a PNG that is as large as they are."""
    from matplotlib.figure import Figure

    grids = [image_grid(p.images, p.columns, max(1, -(-CELL // p.images.shape[-1]))) for p in panels]
    titles = [_wrapped(p.title, grid.shape[1] + _left(p)) for p, grid in zip(panels, grids, strict=True)]
    above = max(LINE * (len(title) + _name_lines(p)) + MARGIN for p, title in zip(panels, titles, strict=True))
    width = sum(_left(p) + grid.shape[1] + MARGIN for p, grid in zip(panels, grids, strict=True)) + MARGIN
    height = above + max(grid.shape[0] for grid in grids) + MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    x = MARGIN
    for panel, grid, title in zip(panels, grids, titles, strict=True):
        rows, columns = grid.shape[:2]
        x += _left(panel)
        axes = figure.add_axes((x / width, 1 - (above + rows) / height, columns / width, rows / height))
        axes.imshow(grid, interpolation="nearest", aspect="auto")
        axes.axis("off")
        middle = x + (columns - _left(panel)) / 2
        top = above - LINE * _name_lines(panel) - MARGIN / 2
        figure.text(middle / width, 1 - top / height, "\n".join(title), ha="center", va="bottom", fontsize=POINTS)
        for i, name in enumerate(panel.column_names):
            centre = x + (i + 0.5) * columns / len(panel.column_names)
            place = centre / width, 1 - (above - MARGIN / 2) / height
            figure.text(*place, name, ha="center", va="bottom", fontsize=POINTS - 1)
        for i, name in enumerate(panel.row_names):
            centre = above + (i + 0.5) * rows / len(panel.row_names)
            place = (x - MARGIN / 2) / width, 1 - centre / height
            figure.text(*place, name, ha="right", va="center", fontsize=POINTS - 1)
        x += columns + MARGIN
    with written_whole(path) as beside:
        figure.savefig(beside)


def _name_lines(panel: Panel) -> int:
    return max((1 + name.count("\n") for name in panel.column_names), default=0)


def _left(panel: Panel) -> int:
    """Pixels to the left of a grid, for the names of its rows."""
    return LETTER * max((len(name) for name in panel.row_names), default=0)


def _wrapped(title: str, width: int) -> list[str]:
    return [line for part in title.splitlines() for line in textwrap.wrap(part, max(8, width // LETTER))]
