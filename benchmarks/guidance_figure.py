"""Draws the effect of the guidance scale from the numbers on a model's card, without measuring anything again.

python -m benchmarks.guidance_figure cfg-mnist5k --output docs/guidance.png
"""

import argparse
from pathlib import Path
from typing import Any

from checkpoints.catalogue import RESULTS, read_json
from checkpoints.locate import find
from commands.drawing.sweeps import plot_guidance

KINDS = ("asked_label", "fid_ratio", "recall")


def numbers_of(metrics: dict[str, Any]) -> list[dict[str, float]]:
    """The metrics of a card by scale, the lowest first."""
    start = f"{KINDS[0]}_scale"
    scales = sorted(float(name.removeprefix(start)) for name in metrics if name.startswith(start))
    return [
        {"guidance_scale": scale} | {kind: metrics[f"{kind}_scale{scale:g}"]["value"] for kind in KINDS}
        for scale in scales
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped model that is measured by the protocol of guidance")
    parser.add_argument("--output", type=Path, default=Path("guidance.png"))
    args = parser.parse_args()
    folder = find(args.model)
    numbers = numbers_of(read_json(folder / RESULTS)["metrics"])
    plot_guidance(args.output, numbers, f"{folder.resolve().name}: the numbers of its card, by the scale of guidance")


if __name__ == "__main__":
    main()
