"""The models that ship: what they do, on which data, how well, how large."""

import argparse
import json
from typing import Any

from checkpoints.catalogue import CONFIG, RESULTS, WEIGHTS, in_bytes, read_json, shipped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    entries = [describe(name) for name in shipped()]
    if args.json:
        print(json.dumps(entries, indent=2))
        return 0
    rows = [("name", "algorithm", "data", "headline metric", "size")]
    for entry in entries:
        headline = next(iter(entry["metrics"].items()), None)
        metric = f"{headline[0]} {headline[1]:.4g}" if headline else "-"
        rows.append((entry["name"], entry["algorithm"], entry["data"], metric, in_bytes(entry["bytes"])))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def describe(name: str) -> dict[str, Any]:
    """One row: {name, algorithm, data, metrics, bytes}."""
    folder = shipped()[name]
    config = read_json(folder / CONFIG)
    results = read_json(folder / RESULTS) if (folder / RESULTS).is_file() else {"metrics": {}}
    return {
        "name": name,
        "algorithm": config["model"],
        "data": config["origin"].get("data", "-"),
        "metrics": {metric: entry["value"] for metric, entry in results["metrics"].items()},
        "bytes": (folder / WEIGHTS).stat().st_size,
    }
