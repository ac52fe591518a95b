"""The models that ship: what trained them, on which data, how well, how large."""

import argparse
import json
import math
from fnmatch import fnmatch
from typing import Any

from checkpoints.catalogue import RESULTS, WEIGHTS, Description, in_bytes, read_json, shipped
from checkpoints.catalogue import describe as describe_folder
from zoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("patterns", metavar="PATTERN", nargs="*", help='only names like these: "ppo-*"')
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    names = [name for name in shipped() if not args.patterns or any(fnmatch(name, p) for p in args.patterns)]
    if args.patterns and not names:
        raise UserError(f"no shipped model is named like {' or '.join(args.patterns)}; `list` shows all of them")
    if args.json:
        print(json.dumps([describe(name) for name in names], indent=2))
        return 0
    rows = [("name", "algorithm", "data", "headline metric", "size"), *map(row, names)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return 0


def describe(name: str) -> dict[str, Any]:
    """Of a shipped model: {name, algorithm, paper, data, metrics, bytes}."""
    described = describe_folder(shipped()[name])
    return {
        "name": name,
        "algorithm": described.algorithm or described.model,
        "paper": described.paper,
        "data": data_of(described),
        "metrics": {metric: entry["value"] for metric, entry in metrics_of(described).items()},
        "bytes": (described.folder / WEIGHTS).stat().st_size,
    }


def row(name: str) -> tuple[str, ...]:
    """The cells of a shipped model."""
    described, about = describe_folder(shipped()[name]), describe(name)
    headline = next((f"{metric} {headline_of(entry)}" for metric, entry in metrics_of(described).items()), "-")
    return name, about["algorithm"], about["data"], headline, in_bytes(about["bytes"])


def metrics_of(described: Description) -> dict[str, Any]:
    """The metrics of a model's card; none if it has not been measured."""
    path = described.folder / RESULTS
    return dict(read_json(path)["metrics"]) if path.is_file() else {}


def data_of(described: Description) -> str:
    """An environment, a density of the plane, or a DataModule."""
    arguments = described.data.get("arguments", {})
    return str(arguments.get("environment") or arguments.get("name") or described.data.get("class", "-"))


def headline_of(entry: dict[str, Any]) -> str:
    """A metric with its standard error."""
    return with_error(entry["value"], entry["spread"] / math.sqrt(entry["size"]))


def with_error(value: float, error: float) -> str:
    """A number to the second digit of its error, or to four digits if it has none but that of rounding."""
    if error <= 1e-12 * abs(value):
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"
