"""Curves over an option of a sampler: its number of steps, its scale of guidance."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.whole import written_whole
from commands.labels import has_null_label
from commands.measures.common import Measurement, data_for, draw_samples, few_steps, in_words, mean, say
from commands.measures.images import SMALL
from commands.measures.judge import Judge

if TYPE_CHECKING:
    from zoo.diffusion.model import ImageDiffusion

STEPS = (5, 10, 20, 50, 100, 1000)
SWEPT = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0)  # scales of guidance
LINES = {  # sampler -> its spacing
    "ddpm": "trailing",
    "ddim": "trailing",
    "heun": "karras",
    "dpm++2m": "trailing",
    "dpm++2m-sde": "trailing",
}
SLOW = ("ddpm", "ddim")  # these gain from more steps
Numbers = list[dict[str, Any]]


def steps(model: "ImageDiffusion", args: argparse.Namespace) -> Numbers:
    """Each sampler at each number of steps: its FID over that of training images, classes as in the test images."""
    judge = Judge(data_for(model, args.described), by_label=bool(model.labels))
    labels = judge.labels if model.labels else None
    learned: dict[str, Any] = {"guidance_scale": 1.0} if has_null_label(model) else {}  # classes as they were learned
    most = (100, 1000) if len(judge.test[0].flatten()) <= SMALL else (20, 50)  # steps of the fast, of the slow
    numbers: Numbers = []
    for sampler, spacing in LINES.items():
        for count in STEPS:
            if count > min(model.process.num_timesteps, most[sampler in SLOW]):
                continue
            found = []
            for draw in range(args.draws):
                say(f"{sampler}, {count} steps: draw {draw + 1} of {args.draws}")
                options: dict[str, Any] = {"sampler": sampler, "steps": count, "spacing": spacing} | learned
                found.append(judge(draw_samples(model, len(judge.test), args.seed + draw, labels, **options)).fid)
            ratio = Measurement.of(found, "", 1 / judge.base)
            cost = 2 * count - 1 if sampler == "heun" else count
            point = {"sampler": sampler, "steps": count, "network_evaluations": cost}
            numbers.append(point | {"fid_ratio": ratio.value, "standard_error": ratio.spread / ratio.size**0.5})

    def plot(axes: Any) -> None:
        for sampler in LINES:
            line = [point for point in numbers if point["sampler"] == sampler]
            cost, height = ([point[key] for point in line] for key in ("network_evaluations", "fid_ratio"))
            errors = [point["standard_error"] for point in line]
            axes.errorbar(cost, height, yerr=errors, label=sampler, marker="o", markersize=4, capsize=2)
        axes.axhline(1, color="0.6", linewidth=1, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="network evaluations a sample", ylabel="FID over training images'")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        axes.figure.legend(frameon=False, loc="outside lower center", ncols=5)

    _plot(args.output, plot, f"{args.model}: {len(judge.test)} samples, {args.draws} draw{'s' * (args.draws > 1)}")
    return numbers


def guidance(model: "ImageDiffusion", args: argparse.Namespace) -> Numbers:
    """Each scale: the share of samples that read as the label asked for, FID, precision, recall."""
    judge = Judge(data_for(model, args.described), by_label=True)
    few = few_steps(model)
    numbers: Numbers = []
    for scale in SWEPT:
        found = []
        for draw in range(args.draws):
            say(f"guidance scale {scale:g}: draw {draw + 1} of {args.draws}")
            samples = draw_samples(model, len(judge.test), args.seed + draw, judge.labels, guidance_scale=scale, **few)
            found.append(judge(samples, judge.labels))
        point = {"guidance_scale": scale, "asked_label": mean([mean(scores.read) for scores in found])}
        point["fid_ratio"] = mean([scores.fid for scores in found]) / judge.base
        point |= {name: mean([getattr(scores, name) for scores in found]) for name in ("precision", "recall")}
        numbers.append(point)

    title = f"{args.model}: {len(judge.test)} samples a scale, {args.draws} draws{in_words(model, few)}"
    plot_guidance(args.output, numbers, title)
    return numbers


def plot_guidance(path: Path, numbers: Numbers, title: str) -> None:
    """Curves over "guidance_scale": "asked_label", "precision" and "recall", where they are there, and "fid_ratio"."""

    def plot(axes: Any) -> None:
        scales = [point["guidance_scale"] for point in numbers]
        for name, text in (("asked_label", "label asked for"), ("precision", "precision"), ("recall", "recall")):
            if name in numbers[0]:
                axes.plot(scales, [point[name] for point in numbers], marker="o", markersize=4, label=text)
        axes.set(xlabel="guidance scale (0 unconditional, 1 conditional)", ylabel="share of samples", ylim=(0, 1.05))
        right = axes.twinx()
        ratios = [point["fid_ratio"] for point in numbers]
        right.plot(scales, ratios, marker="s", markersize=4, color="0.4", linestyle="--", label="FID (right)")
        right.set_yscale("log", base=2)  # unguided samples may be ten times as far off as guided ones
        right.yaxis.set_major_formatter("{x:g}")
        right.set(ylabel="FID over training images'")
        lines = [*axes.get_lines(), *right.get_lines()]
        texts = [line.get_label() for line in lines]
        axes.figure.legend(lines, texts, frameon=False, loc="outside lower center", ncols=4)

    _plot(path, plot, title)


def _plot(path: Path, plot: Callable[[Any], None], title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    plot(axes)
    axes.spines[["top"]].set_visible(False)
    with written_whole(path) as beside:
        figure.savefig(beside, dpi=120)
