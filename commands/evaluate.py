"""Measure every metric of a model's card again, and compare.

A metric passes if it differs from the card by at most 3 standard errors, computed from the spread and the sample sizes
of the card and of this run. By default long measurements use fewer draws than the card did, to end within ten minutes
on two cores; --full uses the card's own numbers. Exit status 1 if a metric does not pass.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints.catalogue import CONFIG, PREFIX, RESULTS, read_json
from checkpoints.locate import find
from commands.measures.common import DATA, Metrics, load_data, say
from commands.measures.images import measure
from commands.options import add_device, add_speed, choose_device, speed_up
from commands.policies import RETURN, import_environments, measure_policy, write_clip
from zoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, or a model folder")
    parser.add_argument("--full", action="store_true", help="as many draws as the card states, however long it takes")
    parser.add_argument(
        "--update", action="store_true", help="for authors: measure in full and write results.json, card and picture"
    )
    parser.add_argument("--data", choices=DATA, help="the data, for a model folder that does not say it")
    parser.add_argument(
        "--env-module", metavar="MODULE", help="a module of yours, which registers a policy's environment"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="FOLDER",
        help="with --update: model folders of the same config from all training seeds, for the card (densities of the "
        "plane, policies)",
    )
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
    is_policy = config.get("model") in ("actor", "actor-critic")
    data_name: Any = args.data or origin.get("data")
    if data_name not in DATA and not is_policy:
        raise UserError(f"{args.model!r} does not say which data it was trained on: pass --data {' or '.join(DATA)}")
    missing = {"seed", "steps", "commit"} - origin.keys()
    if args.update and missing:
        raise UserError(f'{folder / CONFIG} lacks {min(missing)!r} in its "origin": `export` writes it')
    if args.seeds and not args.update:
        raise UserError("--seeds is for --update: it writes the card")
    if is_policy:
        return _run_policy(args, folder, config)
    card = {} if args.update else read_metrics(folder)

    import checkpoints
    from datamodules import Densities
    from zoo.flows.model import Flow

    data = load_data(data_name)
    device = choose_device(args.device)
    model: Any = checkpoints.load(args.model, device)
    sizes = tuple(model.shape if isinstance(model, Flow) else model.image_shape)
    of_data = (data.num_features,) if isinstance(data, Densities) else data.image_shape
    if sizes != of_data:
        what = "images" if len(sizes) == 3 else "points"
        raise UserError(f"{args.model!r} is for {what} {sizes}, but those of {data_name} are {of_data}")
    if isinstance(model, Flow):
        if args.precision != "fp32" or args.compile:
            raise UserError("--precision bf16 and --compile are for diffusion models: a likelihood is taken in fp32")
    else:
        speed_up(getattr(model, "network", model), device, args.precision, args.compile)
    metrics = measure(model, data, full=args.full or args.update, say=say)
    if args.update:
        from commands.card import illustrate_model, write_card

        options = ["--precision bf16"] * (args.precision == "bf16") + ["--compile"] * args.compile
        by_seed = density_by_seed(args.seeds, config, data, device) if args.seeds else {}
        write_card(
            folder,
            data_name,
            metrics,
            options,
            by_seed,
            lambda new: illustrate_model(new, checkpoints.load(str(folder)), data, data_name),
        )
        print(f"wrote {folder / RESULTS} and the card")
        return 0
    return _compare(name, card, metrics, as_json=args.json)


def _run_policy(args: argparse.Namespace, folder: Path, config: dict[str, Any]) -> int:
    """The same for a policy, which is measured by playing; on the card, a film of it."""
    import_environments(args.env_module)
    card = {} if args.update else read_metrics(folder)
    device = choose_device(args.device)
    metrics = measure_policy(args.model, device)
    if args.update:
        from commands.card import write_card

        by_seed: dict[str, Any] = {}
        if args.seeds:
            values = by_training_seed(args.seeds, config, lambda name: measure_policy(name, device)[RETURN].value)
            by_seed = {"metric": RETURN, "values": values}
        write_card(folder, config["origin"]["data"], metrics, [], by_seed, lambda new: write_clip(new, folder))
        print(f"wrote {folder / RESULTS} and the card")
        return 0
    return _compare(folder.resolve().name, card, metrics, as_json=args.json)


def density_by_seed(folders: list[str], config: dict[str, Any], data: Any, device: str) -> dict[str, Any]:
    """{"metric", "values": {training seed: value}} of flows of one config: their NLL less that of the truth.

    Raises:
        UserError: as `by_training_seed`, and if the data has no known density.
    """
    import checkpoints
    from commands.measures.flows import scores
    from datamodules import Densities

    if not isinstance(data, Densities):
        raise UserError("--seeds is for densities of the plane and policies: other models are measured one by one")

    def measured(name: str) -> float:
        return scores(checkpoints.load(name, device), data, say)[0].value  # type: ignore[arg-type]

    return {"metric": "nll_minus_floor_nats", "values": by_training_seed(folders, config, measured)}


def by_training_seed(folders: list[str], config: dict[str, Any], measured: Callable[[str], float]) -> dict[str, float]:
    """{training seed: value} of model folders of one config.

    Raises:
        UserError: if a folder holds another model, or two are of one seed.
    """
    values: dict[str, float] = {}
    for name in folders:
        other = read_json(find(name) / CONFIG)
        if any(other.get(key) != config.get(key) for key in ("model", "arguments")):
            raise UserError(f"--seeds {name!r} is not of the model that is measured: its class or arguments differ")
        seed = str(other["origin"]["seed"])
        if seed in values:
            raise UserError(f"--seeds {name!r} is of training seed {seed}, as another folder is")
        values[seed] = measured(name)
    return values


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
