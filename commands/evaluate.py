"""Measure every metric of a model's card again, and compare.

A metric passes if it differs from the card by at most 3 standard errors, computed from the spread and the sample sizes
of the card and of this run. By default long measurements use fewer draws than the card did, to end within ten minutes
on two cores; --full uses the card's own numbers. Exit status 1 if a metric does not pass.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CONFIG, PREFIX, RESULTS, Description, data_named, describe, read_json
from checkpoints.locate import find
from checkpoints.tasks import TASKS
from commands.measures import measure, protocol_of
from commands.measures.common import Metrics, say
from commands.options import add_device, add_speed, choose_device, speed_up
from zoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--full", action="store_true", help="as many draws as the card states, however long it takes")
    parser.add_argument(
        "--update", action="store_true", help="for authors: measure in full and write results.json, card and picture"
    )
    parser.add_argument(
        "--data", metavar="NAME", help="the data, for a model folder that does not say it: Digits, Shapes"
    )
    parser.add_argument(
        "--env-module", metavar="MODULE", help="a module of yours, which registers a policy's environment"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="FOLDER",
        help="with --update: model folders of the same config from all training seeds, for the card",
    )
    parser.add_argument("--license", help="with --update: the licence of the weights, for the card, as apache-2.0")
    parser.add_argument("--data-license", help="with --update: the licence of the data, for the card")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    add_device(parser)
    add_speed(parser)


def run(args: argparse.Namespace) -> int:
    if args.update and args.model.startswith(PREFIX):
        raise UserError(f"--update writes into the model folder: `download {args.model} --to DIR`, then --update DIR")
    for option in ("seeds", "license", "data_license"):
        if getattr(args, option) and not args.update:
            raise UserError(f"--{option.replace('_', '-')} is for --update: it writes the card")
    described = describe(find(args.model))
    if args.data is not None:
        if "rollout" in (task := TASKS[described.task]).verbs:
            raise UserError(f"{args.model!r} is {task.noun}, which is measured in an environment: leave out --data")
        data = {"class": args.data, "arguments": {}} if args.data[:1].isupper() else data_named(args.data)
        if not data:
            raise UserError(f"--data must be Digits, Shapes or the name of a density as moons, got {args.data!r}")
        described = described._replace(data=data)
    if not described.data:
        raise UserError(
            f"{args.model!r} does not say which data it was trained on: pass --data, as Digits or Shapes, or train it "
            "with a DataModule of this project (ImageFolder, Points), which its checkpoint then names"
        )
    missing = {"seed", "steps", "commit"} - described.origin.keys()
    if args.update and missing:
        raise UserError(f'{described.folder / CONFIG} lacks {min(missing)!r} in its "origin": `export` writes it')
    card = {} if args.update else read_metrics(described.folder)
    device = choose_device(args.device)
    if args.env_module is not None:
        from commands.policies import import_environments

        import_environments(args.env_module)
    metrics = measured(described, device, args)
    if not args.update:
        return _compare(described.folder.resolve().name, card, metrics, as_json=args.json)
    from commands.card import write_card

    options = ["--precision bf16"] * (args.precision == "bf16") + ["--compile"] * args.compile
    licences = {"license": args.license, "data_license": args.data_license}
    headline = next(iter(metrics))
    by_seed = by_training_seed(args, described, headline, device) if args.seeds else kept_seeds(described, metrics)
    write_card(described, metrics, options, by_seed, {key: text for key, text in licences.items() if text})
    answer = str(described.folder / RESULTS)
    print(json.dumps({"output": answer}) if args.json else f"wrote {answer} and the card")
    return 0


def measured(described: Description, device: str, args: argparse.Namespace) -> Metrics:
    """Every metric of a model, the headline first, by its protocol."""
    from checkpoints.store import load

    protocol_of(described)  # before the weights are loaded
    model: Any = load(described, device)
    if args.precision != "fp32" or args.compile:
        if not hasattr(model, "network"):
            raise UserError("--precision bf16 and --compile are for diffusion models: others are measured in fp32")
        speed_up(model.network, device, args.precision, args.compile)
    return measure(model, described, full=args.full or args.update, say=say)


def by_training_seed(args: argparse.Namespace, described: Description, headline: str, device: str) -> dict[str, Any]:
    """{"metric", "values": {training seed: value}} of the headline of model folders of one config.

    Raises:
        UserError: if a folder holds another model, or two are of one seed.
    """
    values: dict[str, float] = {}
    for name in args.seeds:
        other = describe(find(name))
        if (other.model, other.arguments) != (described.model, described.arguments):
            raise UserError(f"--seeds {name!r} is not of the model that is measured: its class or arguments differ")
        seed = str(other.origin["seed"])
        if seed in values:
            raise UserError(f"--seeds {name!r} is of training seed {seed}, as another folder is")
        values[seed] = measured(other._replace(data=described.data), device, args)[headline].value
    return {"metric": headline, "values": values}


def kept_seeds(described: Description, metrics: Metrics) -> dict[str, Any]:
    """The card's table of training seeds if this model's own value in it still holds, else {}."""
    path = described.folder / RESULTS
    former = read_json(path) if path.is_file() else {}
    table = former.get("by_training_seed")
    if not isinstance(table, dict) or table.get("metric") not in metrics:
        return {}
    name = table["metric"]
    own = compare(described.folder.name, {name: read_metrics(described.folder)[name]}, metrics)[name]
    return table if own["ok"] and table["values"].get(str(described.origin["seed"])) == own["card"] else {}


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


def compare(name: str, card: dict[str, dict[str, Any]], metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Each metric of a card and its new value: metric -> {"card", "now", "tolerance", "ok"}.

    Raises:
        UserError: if a metric of the card was not measured.
    """
    answer: dict[str, dict[str, Any]] = {}
    for metric, entry in card.items():
        if metric not in metrics:
            raise UserError(f"the card of {name!r} has a metric {metric!r} that this version does not measure")
        now = metrics[metric]
        # at least the rounding of float32 sums, where a metric has no spread at all
        tolerance = max(3 * _spread(entry) * math.sqrt(1 / entry["size"] + 1 / now.size), 1e-4 * abs(entry["value"]))
        ok = abs(now.value - entry["value"]) <= tolerance
        answer[metric] = {"card": entry["value"], "now": now.value, "tolerance": tolerance, "ok": ok}
    return answer


def _spread(entry: dict[str, Any]) -> float:
    """The standard deviation of what a card's metric is the mean of.

    A share of 0 or of 1 has none in the sample, but its probability is uncertain: by the rule of succession it is
    p = (n + 1) / (n + 2) or 1 - p, of standard deviation sqrt(p (1 - p)).
    """
    spread, size = float(entry["spread"]), entry["size"]
    if not spread and size > 1 and entry["value"] in (0, 1):
        return math.sqrt(size + 1) / (size + 2)
    return spread


def _compare(name: str, card: dict[str, dict[str, Any]], metrics: Metrics, *, as_json: bool) -> int:
    answer = compare(name, card, metrics)
    if as_json:
        print(json.dumps({"name": name, "metrics": answer}, indent=2, allow_nan=False))
    else:
        print(f"{name}\n{'metric':<34}{'card':>10}{'now':>10}{'tolerance':>11}")
        for metric, row in answer.items():
            verdict = "ok" if row["ok"] else "OUTSIDE"
            print(f"{metric:<34}{row['card']:>10.4f}{row['now']:>10.4f}{row['tolerance']:>11.4f}  {verdict}")
    return 0 if all(row["ok"] for row in answer.values()) else 1
