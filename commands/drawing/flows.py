"""Pictures of densities: points, maps of the plane, and how a flow carries noise to data."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints.whole import written_whole

SIDE = 220  # pixels of a map and of an animation
BATCH = 10_000  # points at once
ANIMATED = 4000  # points
FRAMES, PAUSE = 36, 8  # of an animation, and how many of them stand still at the end
COLOURS = 12  # shades of an animation: a GIF of few is small
DENOISED, SHADES = 28, 8  # steps of a denoising animation, and shades of each colour


def write_scatter(points: Tensor, path: Path) -> None:
    """Points (N, 2) as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    _scatter(axes, points)
    axes.set_aspect("equal")
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)


def write_map(path: Path, title: str, log_density: Callable[[Tensor], Tensor], box: Tensor, points: Tensor) -> None:
    """The density over a box (2, 2: lowest and highest corner) as a PNG, with points (N, 2) on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.8, 5), layout="constrained")
    axes = figure.subplots()
    image = _map(axes, log_density, box)
    if len(points):
        x, y = points[:20_000].numpy().T
        axes.scatter(x, y, s=2, color="white", linewidths=0, alpha=0.6)
    axes.set_title(title)
    figure.colorbar(image, label="density")
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)


def write_comparison(path: Path, name: str, data: Any, model: Any) -> None:
    """True density, learned density and samples side by side, on the same box and the same scale of colours."""
    from matplotlib.figure import Figure

    box = around(data.points("test"))
    samples = model.sample(20_000, generator=torch.Generator().manual_seed(0)).cpu()
    figure = Figure(figsize=(12.6, 4.6), layout="constrained")
    true, learned, drawn = figure.subplots(1, 3)
    image = _map(true, data.log_density, box)
    _map(learned, in_batches(model), box, *image.get_clim())
    _scatter(drawn, samples, box)
    for axes, title in ((true, f"{data.density}: true density"), (learned, f"{name}: learned"), (drawn, "samples")):
        axes.set_title(title)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=100)


def write_animation(path: Path, model: Any, seed: int = 0) -> None:
    """A GIF: points carried from the base through the layers, or through time; images as they are denoised, or those of
    a flow as their noise grows from 0.

    Between two layers the points go in a straight line.
    """
    from PIL import Image

    if len(model.shape) == 1:
        frames = _point_frames(model, seed)
    else:
        frames = _denoised_frames(model, seed) if hasattr(model, "denoiser") else _image_frames(model, seed)
    pictures = [Image.fromarray(frame) for frame in [*frames, *[frames[-1]] * PAUSE]]
    with written_whole(path) as beside, beside.open("wb") as file:
        pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=80, loop=0, optimize=True)


def in_batches(model: Any, label: Tensor | None = None, **options: Any) -> Callable[[Tensor], Tensor]:
    """log p of any number of points, on the CPU; of a conditional density, given one label (1,)."""

    def log_prob(points: Tensor) -> Tensor:
        like = next(model.parameters())
        generator = torch.Generator().manual_seed(0)
        found = []
        with torch.inference_mode():
            for part in points.to(like).split(BATCH):
                labels = None if label is None else label.expand(len(part), *label.shape[1:])
                found.append(model.log_likelihood(part, labels=labels, generator=generator, **options).cpu())
        return torch.cat(found)

    return log_prob


def around(points: Tensor) -> Tensor:
    """A square box (2, 2) with a margin about all of the points but the outermost in ten thousand."""
    low, high = points.double().quantile(torch.tensor([1e-4, 1 - 1e-4], dtype=torch.float64), dim=0)
    centre, half = (low + high) / 2, 0.55 * (high - low).max()
    return torch.stack([centre - half, centre + half])


def _grid(box: Tensor, side: int) -> Tensor:
    """The centres of side x side cells, (side^2, 2) float32, row by row from the lowest."""
    x, y = (
        torch.linspace(0.5 / side, 1 - 0.5 / side, side, dtype=torch.float64) * (high - low) + low
        for low, high in box.double().T
    )
    return torch.stack([x.repeat(side), y.repeat_interleave(side)], dim=1).float()


def _map(axes: Any, log_density: Callable[[Tensor], Tensor], box: Tensor, *limits: float) -> Any:
    density = log_density(_grid(box, SIDE)).exp().view(SIDE, SIDE).numpy()
    low, high = limits or (0.0, float(density.max()))
    return axes.imshow(density, origin="lower", extent=box.T.flatten().tolist(), vmin=low, vmax=high, cmap="magma")


def _scatter(axes: Any, points: Tensor, box: Tensor | None = None) -> None:
    x, y = points[:20_000].numpy().T
    axes.scatter(x, y, s=3, color="#4c1d6b", linewidths=0, alpha=0.35)
    if box is not None:
        (left, bottom), (right, top) = box.tolist()
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def _point_frames(model: Any, seed: int) -> list[Any]:
    labels = torch.arange(ANIMATED) % model.labels[0] if model.labels else None
    points = model.sample(ANIMATED, labels=labels, generator=torch.Generator().manual_seed(seed))
    way = [stop.cpu() for stop in reversed(model.path(points, labels))]
    # the base is shown in the units of the data: what the last layer, which undoes the standardisation, makes of it
    *way, last = way
    scale = (last - last.mean(0)).std(0) / (way[-1] - way[-1].mean(0)).std(0)
    shift = last.mean(0) - scale * way[-1].mean(0)
    way = [points * scale + shift for points in way]
    box = around(torch.cat([way[0], last]))
    stops = [(before, after) for before, after in pairwise(way) if (after - before).abs().max() > 1e-6]
    frames = []
    for i in range(FRAMES):
        position = len(stops) * i / (FRAMES - 1)
        before, after = stops[min(int(position), len(stops) - 1)]
        share = position - min(int(position), len(stops) - 1)
        frames.append(_dots(before + share * (after - before), box))
    return frames


def _dots(points: Tensor, box: Tensor) -> Any:
    """A square picture, uint8 (SIDE, SIDE, 3), darker where more points are."""
    import matplotlib

    cells = ((points - box[0]) / (box[1] - box[0]) * SIDE).floor().long()
    inside = ((cells >= 0) & (cells < SIDE)).all(1)
    flat = (SIDE - 1 - cells[inside, 1]) * SIDE + cells[inside, 0]
    count = flat.bincount(minlength=SIDE**2).float().view(1, 1, SIDE, SIDE)
    blurred = torch.nn.functional.avg_pool2d(count, 3, stride=1, padding=1)[0, 0]
    shade = (blurred.clamp(max=1) * (COLOURS - 1)).round().numpy() / (COLOURS - 1)
    return (matplotlib.colormaps["magma"](shade)[..., :3] * 255).astype(np.uint8)


def _denoised_frames(model: Any, seed: int) -> list[Any]:
    """x_t on its way down, in few shades: a GIF of noise is large."""
    from zoo.pictures import image_grid

    columns, rows = 6, 4
    labels = model.labels_in_turn(torch.arange(columns * rows))
    steps, seen = min(DENOISED, model.process.num_timesteps), []

    def watch(t: int, x: Tensor, x0: Tensor) -> None:
        seen.append(x / torch.hypot(*(torch.as_tensor(scale) for scale in model.process.at(t))))

    generator = torch.Generator().manual_seed(seed)
    options = {"sampler": "ddim", "steps": steps, "spacing": "trailing"}
    model.sample(columns * rows, labels=labels, generator=generator, on_step=watch, **options)
    shades = [((x.cpu().clamp(-1, 1) + 1) * (SHADES - 1) / 2).round() * 2 / (SHADES - 1) - 1 for x in seen]
    return [image_grid(x, columns, max(1, 56 // model.shape[-1])) for x in shades]


def _image_frames(model: Any, seed: int) -> list[Any]:
    from zoo.pictures import image_grid

    small = model.shape[-1] <= 16
    columns, scale = (6, 4) if small else (4, max(1, 56 // model.shape[-1]))
    count = columns**2
    labels = torch.arange(count) % model.labels[0] if model.labels else None
    frames = []
    for i in range(FRAMES):
        # the same noise in each, from nearly nothing, the likeliest noise, to all of it
        generator, temperature = torch.Generator().manual_seed(seed), max(1e-3, i / (FRAMES - 1))
        images = model.sample(count, labels=labels, generator=generator, temperature=temperature).cpu()
        if not small:  # as few shades as keep the file small
            images = (images * (COLOURS - 1) / 2).round() * (2 / (COLOURS - 1))
        frames.append(image_grid(images, columns, scale))
    return frames
