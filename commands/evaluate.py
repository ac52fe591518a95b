"""Measure every metric of a model's card again, and compare.

A metric passes if it differs from the card by at most 3 standard errors, computed from the spread and the sample sizes
of the card and of this run. By default long measurements use fewer draws than the card did, to end within ten minutes
on two cores; --full uses the card's own numbers. Exit status 1 if a metric does not pass.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from checkpoints.catalogue import CONFIG, PREFIX, RESULTS, find, read_json
from commands.options import add_device, add_speed, choose_device, speed_up
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from datamodules.images import ImageDataModule

JUDGE = {"digits": "classifier-digits"}  # data -> the model whose features the FID is taken in


class Measurement(NamedTuple):
    """The mean of `size` values whose standard deviation is `spread`."""

    value: float
    spread: float
    size: int
    protocol: str

    @classmethod
    def of(cls, values: Iterable[float], protocol: str, scale: float = 1.0) -> "Measurement":
        """The mean of values, each multiplied by `scale`."""
        values = [scale * value for value in values]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values), protocol)


Metrics = dict[str, Measurement]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--full", action="store_true", help="as many draws as the card states, however long it takes")
    parser.add_argument(
        "--update", action="store_true", help="for authors: measure in full and write results.json, card and picture"
    )
    parser.add_argument("--data", choices=sorted(JUDGE), help="the data, for a model folder that does not say it")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    if args.update and args.model.startswith(PREFIX):
        raise UserError(f"--update writes into the model folder: `download {args.model} --to DIR`, then --update DIR")
    folder = find(args.model)
    config = read_json(folder / CONFIG)
    name = folder.resolve().name
    origin = config.get("origin")
    if not isinstance(origin, dict):
        raise UserError(f'{folder / CONFIG} must hold "origin", an object')
    data_name = args.data or origin.get("data")
    if data_name not in [*JUDGE]:
        raise UserError(f"{args.model!r} does not say which data it was trained on: pass --data {' or '.join(JUDGE)}")
    missing = {"seed", "steps", "commit"} - origin.keys()
    if args.update and missing:
        raise UserError(f'{folder / CONFIG} lacks {min(missing)!r} in its "origin": `export` writes it')
    card = {} if args.update else read_metrics(folder)

    import checkpoints
    from datamodules import Digits

    data = {"digits": Digits}[data_name]()
    device = choose_device(args.device)
    model: Any = checkpoints.load(args.model, device)
    if tuple(model.image_shape) != data.image_shape:
        raise UserError(
            f"{args.model!r} is for images {model.image_shape}, but those of {data_name} are {data.image_shape}"
        )
    speed_up(getattr(model, "network", model), device, args.precision, args.compile)
    measure = {"image-diffusion": measure_diffusion, "image-classifier": measure_classifier}[config["model"]]
    metrics = measure(model, data, full=args.full or args.update, say=_say)
    if args.update:
        from commands.card import write_card

        options = ["--precision bf16"] * (args.precision == "bf16") + ["--compile"] * args.compile
        write_card(folder, data, data_name, metrics, options)
        print(f"wrote {folder / RESULTS} and the card")
        return 0
    return _compare(name, card, metrics, as_json=args.json)


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """The metrics on the card of a model folder: name -> {value, spread, size, protocol}.

    Raises:
        UserError: if there are none, or one of the numbers is missing or not finite.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(f"{path} does not exist, so there is nothing to compare with: write it with --update")
    metrics = read_json(path).get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise UserError(f'{path} must hold "metrics", an object with at least one metric')
    for metric, entry in metrics.items():
        for key, least in (("value", -1e300), ("spread", 0), ("size", 1)):
            number = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(number, int | float) or not least <= number < 1e300:
                raise UserError(f"{path}: metric {metric!r} must have a finite number {key!r}, got {number!r}")
    return metrics


def _compare(name: str, card: dict[str, dict[str, Any]], metrics: Metrics, *, as_json: bool) -> int:
    answer: dict[str, dict[str, Any]] = {}
    for metric, entry in card.items():
        if metric not in metrics:
            raise UserError(f"the card of {name!r} has a metric {metric!r} that this version does not measure")
        now = metrics[metric]
        # at least the rounding of float32 sums, where a metric has no spread at all
        tolerance = max(3 * entry["spread"] * math.sqrt(1 / entry["size"] + 1 / now.size), 1e-4 * abs(entry["value"]))
        ok = abs(now.value - entry["value"]) <= tolerance
        answer[metric] = {"card": entry["value"], "now": now.value, "tolerance": tolerance, "ok": ok}
    if as_json:
        print(json.dumps({"name": name, "metrics": answer}, indent=2))
    else:
        print(f"{name}\n{'metric':<34}{'card':>10}{'now':>10}{'tolerance':>11}")
        for metric, row in answer.items():
            verdict = "ok" if row["ok"] else "OUTSIDE"
            print(f"{metric:<34}{row['card']:>10.4f}{row['now']:>10.4f}{row['tolerance']:>11.4f}  {verdict}")
    return 0 if all(row["ok"] for row in answer.values()) else 1


def measure_classifier(
    model: "nn.Module", data: "ImageDataModule", *, full: bool, say: Callable[[str], None]
) -> Metrics:
    """Accuracy on the test and validation splits."""
    import torch

    say("classifying")
    metrics = {}
    device = next(model.parameters()).device
    for split, name in (("test", "test_accuracy"), ("val", "validation_accuracy")):
        images, labels = data.images(split), data.labels(split)
        with torch.inference_mode():
            right = (model(images.to(device)).argmax(1).cpu() == labels).double()
        metrics[name] = Measurement.of(right.tolist(), f"share of the {len(labels)} {split} images read right")
    return metrics


def measure_diffusion(model: Any, data: "ImageDataModule", *, full: bool, say: Callable[[str], None]) -> Metrics:
    """Feature-FID with 50 DDIM and 1000 ancestral steps, the variational bound, precision and recall, and copying.

    FID is divided by that of training images against the same test images: 1 is as close to the test images as the
    training images are.
    """
    import torch

    import checkpoints
    from commands.sample import BATCH
    from zoo.metrics.likelihood import bits_per_dim
    from zoo.metrics.samples import FeatureFID, nearest_distances, precision_recall

    judge: Any = checkpoints.load(JUDGE[type(data).__name__.lower()])
    train, test = data.images("train"), data.images("test")
    count, draws = len(test), 20
    fid = FeatureFID(judge, test)
    with torch.inference_mode():
        test_features = judge.features(test)

    shuffled = torch.Generator().manual_seed(0)
    baseline = [fid(train[torch.randperm(len(train), generator=shuffled)[:count]]) for _ in range(draws)]
    base = sum(baseline) / draws
    unseen = nearest_distances(test, train).median().item()
    space = f"features of {JUDGE[type(data).__name__.lower()]}, {count} samples against the {count} test images"
    # batches of one size, so that a compiled network is compiled once
    sizes = [len(rows) for rows in torch.arange(count).chunk(math.ceil(count / BATCH))]
    metrics: Metrics = {}
    extra: Metrics = {}
    last = model.process.num_timesteps
    for label, options, number in (
        ("ddim50", {"sampler": "ddim", "steps": 50}, draws),
        (f"ddpm{last}", {"sampler": "ddpm", "steps": last}, draws if full else 2),
    ):
        distances, nearest, precision, recall = [], [], [], []
        for draw in range(number):
            say(f"{label}: draw {draw + 1} of {number}")
            generator = torch.Generator().manual_seed(draw)
            samples = torch.cat([model.sample(size, generator=generator, **options).cpu() for size in sizes])
            distances.append(fid(samples))
            nearest.append(nearest_distances(samples, train).median().item())
            with torch.inference_mode():
                pair = precision_recall(test_features, judge.features(samples))
            precision.append(pair[0])
            recall.append(pair[1])
        metrics[f"fid_ratio_{label}"] = Measurement.of(
            distances, f"FID over the mean FID of {count} training images, {base:.4f}; {space}; mean of draws", 1 / base
        )
        metrics[f"nearest_ratio_{label}"] = Measurement.of(
            nearest,
            f"median distance of a sample to its nearest training image over that of the test images, {unseen:.4f}; "
            "below 1 is copying; mean of draws",
            1 / unseen,
        )
        extra[f"fid_{label}"] = Measurement.of(distances, f"FID, {space}; mean of draws")
        extra[f"precision_{label}"] = Measurement.of(
            precision, f"precision, 3 nearest neighbours, {space}; mean of draws"
        )
        extra[f"recall_{label}"] = Measurement.of(recall, f"recall, 3 nearest neighbours, {space}; mean of draws")

    say("variational bound")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    bounds = [model.bound(x0, data.levels, generator=generator).total for x0 in test.to(device).split(sizes)]
    bits = bits_per_dim(-torch.cat(bounds), test[0].numel()).tolist()
    metrics["bound_bits_per_dim"] = Measurement.of(
        bits, f"variational bound of the {count} test images, {data.levels} grey levels, all {last} terms, x0 clipped"
    )
    metrics["fid_training_images"] = Measurement.of(baseline, f"FID of {count} training images, {space}; mean of draws")
    return metrics | extra


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
