"""Grids of images: on the way down, between two latents, there and back, and from what is known of one."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from checkpoints.catalogue import Description
from commands.drawing.panels import Panel, draw
from commands.labels import class_names, every_class, has_null_label
from commands.measures.common import data_for
from zoo.protocols import Sampler

if TYPE_CHECKING:
    from zoo.diffusion.model import ImageDiffusion
    from zoo.vae.model import VAE

STEPS = 50  # of DDIM, or as many as the model has
SAMPLES, TIMES = 4, 10  # of the denoising picture: samples, and columns
PAIRS, BETWEEN = 6, 9  # of the interpolation: rows, and images in each
IMAGES, INVERTED = 10, (10, 50, 200)  # of the inversion: images, and steps
TRAVERSED, VALUES = 8, 9  # of the traversal: rows, and values of a latent in each
GIVEN, COMPLETED = 8, 3  # of the completion: images, and samples of each
Numbers = list[dict[str, Any]]


class FromLatents(Sampler, Protocol):
    """A model that makes each sample from a latent of its own."""

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def denoising(model: "ImageDiffusion", args: argparse.Namespace) -> Numbers:
    """x_t and the estimate of x_0 at ten times of a run."""
    labels = _labels(model, SAMPLES)
    noisy, clean, times = [_latents(model, SAMPLES, args.seed)], [], [model.process.num_timesteps]

    def watch(t: int, x: Tensor, x0: Tensor) -> None:
        times.append(t)
        noisy.append(x)
        clean.append(x0)

    options = _options(model)
    model.sample(SAMPLES, labels=labels, noise=noisy[0], on_step=watch, **options)
    last = len(clean) - 1
    shown = [round(i * last / (TIMES - 2)) for i in range(TIMES - 1)]
    rows = [torch.stack([*(run[i] for i in shown), noisy[-1]], dim=1).cpu() for run in (noisy, clean)]
    images = torch.stack(rows, dim=1).flatten(0, 2)
    names = _texts(labels, args.described, model.labels) or [""] * SAMPLES
    names = [f"{name} {what}".strip() for name in names for what in ("x_t", "x_0")]
    columns = [f"{times[i]}" for i in shown] + ["0"]
    title = f"{args.model}: x_t and the estimate of x_0, by t"
    draw(args.output, [Panel(title, images, TIMES, names, columns)])
    return []


def interpolation(model: "FromLatents", args: argparse.Namespace) -> Numbers:
    """Six pairs of latents, nine images along the arc of each; of one class a row."""
    from zoo.diffusion.samplers import slerp

    left, right = _latents(model, 2 * PAIRS, args.seed).split(PAIRS)
    weights = [i / (BETWEEN - 1) for i in range(BETWEEN)]
    latents = torch.stack([slerp(left, right, weight) for weight in weights], dim=1).flatten(0, 1)
    labels = _labels(model, PAIRS)
    asked = None if labels is None else labels.repeat_interleave(BETWEEN, dim=0)
    images = model.sample(len(latents), noise=latents, labels=asked, **_options(model)).cpu()
    names = _texts(labels, args.described, model.labels) or [f"pair {i + 1}" for i in range(PAIRS)]
    panel = Panel(f"{args.model}: between two latents", images, BETWEEN, names, [f"{weight:.3g}" for weight in weights])
    draw(args.output, [panel])
    return []


def traversal(model: "VAE", args: argparse.Namespace) -> Numbers:
    """The latents that carry most: means of p(x | z) as one of a test image's moves from -3 to 3, a row each."""
    images = data_for(model, args.described).images("test").to(next(model.parameters()).device)
    with torch.inference_mode():
        q = model.encode(images)
    nats = (0.5 * (q.mean.square() + (2 * q.log_std).exp() - 1) - q.log_std).mean(0)  # KL(q || p) of each
    chosen = nats.argsort(descending=True)[:TRAVERSED].tolist()
    values = torch.linspace(-3, 3, VALUES)
    latents = q.mean[args.seed % len(images)].repeat(len(chosen), VALUES, 1)
    for row, latent in enumerate(chosen):
        latents[row, :, latent] = values
    drawn = model.mean_image(latents.flatten(0, 1)).cpu()
    names = [f"latent {latent}, {nats[latent]:.1f} nats" for latent in chosen]
    title = f"{args.model}: one latent at a time"
    draw(args.output, [Panel(title, drawn, VALUES, names, [f"{value:.3g}" for value in values.tolist()])])
    return [{"latent": latent, "kl_nats": nats[latent].item()} for latent in chosen]


def inversion(model: "ImageDiffusion", args: argparse.Namespace) -> Numbers:
    """Ten test images and their round trips: a row for each number of steps."""
    from zoo.diffusion.samplers import ddim, ddim_invert
    from zoo.diffusion.schedules import timesteps

    data = data_for(model, args.described)
    process, device = model.process, next(model.parameters()).device
    images, labels = data.images("test")[:IMAGES].to(device), data.labels("test")[:IMAGES]
    denoise = model.denoiser(labels.to(device) if model.labels else None, clip=False)
    rows, numbers = [images.cpu()], []
    with torch.inference_mode():
        for steps in [steps for steps in INVERTED if steps <= process.num_timesteps]:
            times = timesteps(process.num_timesteps, steps)
            back = ddim(denoise, process, ddim_invert(denoise, process, images, times), times)
            rows.append(back.cpu())
            numbers.append({"steps": steps, "mean_squared_error": (back - images).square().mean().item()})
    names = ["real", *(f"{number['steps']} steps" for number in numbers)]
    title = f"{args.model}: test images, and what DDIM makes of their latents"
    counts = data.num_classes if isinstance(data.num_classes, tuple) else (data.num_classes,)
    columns = [name.replace(" ", "\n") for name in _texts(labels, args.described, counts)]
    draw(args.output, [Panel(title, torch.cat(rows), IMAGES, names, columns)])
    return numbers


def completion(model: "Sampler", args: argparse.Namespace) -> Numbers:
    """Eight test images, their upper halves, and three samples that keep these; of colours, also from the greys.

    An autoregressive model continues the upper half, which is an exact sample given it, and has no way to take greys.
    """
    data = data_for(model, args.described)
    images = data.images("test")
    taken = torch.arange(GIVEN) * (len(images) // GIVEN)  # spread, as data may be in the order of their classes
    images, labels = images[taken], data.labels("test")[taken] if _needs_labels(model) else None
    mask = torch.zeros(images.shape[-2:], dtype=torch.bool)
    mask[len(mask) // 2 :] = True
    upper = images.masked_fill(mask, 0)
    panels = []
    generator = torch.Generator().manual_seed(args.seed)
    for title, name, part, options in _given_of(model, images, mask):
        complete = partial(model.sample, GIVEN, labels=labels, generator=generator, **options)
        drawn = [complete().cpu() for _ in range(COMPLETED)]
        names = ["real", name, *[""] * COMPLETED]
        shown = torch.cat([images, upper if part is None else part, *drawn])
        panels.append(Panel(f"{args.model}: {title}", shown, GIVEN, names))
    draw(args.output, panels)
    return []


def _given_of(model: Any, images: Tensor, mask: Tensor) -> list[tuple[str, str, Tensor | None, dict[str, Any]]]:
    """What a completion is given of images: (title, name, how it looks or None for the upper half, options)."""
    from zoo.diffusion.inverse import averages, inpainting

    title = "lower halves filled in"
    if not hasattr(model, "process"):
        return [(title, "upper half", None, {"prefix": images[:, :, : int((~mask[:, 0]).sum())]})]
    options: dict[str, Any] = {"steps": min(20, model.process.num_timesteps)}
    found: list[tuple[str, str, Tensor | None, dict[str, Any]]] = [
        (title, "upper half", None, options | {"known": inpainting(images, mask)})
    ]
    if model.shape[0] == 3:
        grey = images.mean(1, keepdim=True)
        options = options | {"known": averages(grey, model.shape)}
        found.append(("colours for greys", "grey", grey.expand_as(images), options))
    return found


def _needs_labels(model: Any) -> bool:
    return bool(model.labels) and not has_null_label(model)


def _options(model: "FromLatents") -> dict[str, Any]:
    """Those of a sampler that draws no noise of its own, for a model whose samples take steps."""
    return {"sampler": "ddim", "steps": min(STEPS, model.process.num_timesteps)} if hasattr(model, "process") else {}


def _latents(model: "FromLatents", count: int, seed: int) -> Tensor:
    shape = getattr(model, "latent_shape", model.shape)
    latents = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
    return latents.to(next(model.parameters()).device)


def _labels(model: "FromLatents", count: int) -> Tensor | None:
    """The first classes of a model in turn, if it has any."""
    if not model.labels:
        return None
    classes = every_class(model.labels)
    return classes[torch.arange(count) % len(classes)]


def _texts(labels: Tensor | None, described: Description, counts: tuple[int, ...]) -> list[str]:
    """The labels (N,) or (N, columns) of so many classes as a person reads them: by name where they have names."""
    if labels is None:
        return []
    rows = labels.view(len(labels), -1).tolist()
    names = class_names(described, counts)
    return [" ".join(names[i][label] if names else str(label) for i, label in enumerate(row)) for row in rows]
