"""docs/models.md lists every shipped model with its first number, and the README's table agrees with it.

    python -m tests.test_models_page      # writes docs/models.md

writes the page from the models' config.json and results.json.
"""

import math
import re
from pathlib import Path

import pytest

from checkpoints.catalogue import RESULTS, WEIGHTS, Description, describe, in_bytes, read_json, shipped
from commands.list import data_of, headline_of, with_error

ROOT = Path(__file__).resolve().parent.parent
PAGE, README = ROOT / "docs" / "models.md", ROOT / "README.md"
OPENING = """# All models

Each name leads to the model's card, which has every number, how it was measured, and how to use the model. Each
algorithm leads to its paper. A number is a mean with its standard error over test data, samples or episodes, of the one
training seed that ships. Where there are several training seeds, a column has the mean and the standard deviation over
them, and how many they are. `python -m tests.test_models_page` writes this page.

| model | algorithm | data | first number of the card | | over training seeds | size |
| --- | --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The text of docs/models.md."""
    return OPENING + "".join(map(row, shipped().values()))


def row(folder: Path) -> str:
    """The line of a model, from its files alone."""
    described, results = describe(folder), read_json(folder / RESULTS)
    metric, entry = next(iter(results["metrics"].items()))
    seeds = results.get("by_training_seed", {}).get("values", {})
    cells = [
        f"[`{folder.name}`](../checkpoints/shipped/{folder.name}/README.md)",
        algorithm_of(described),
        data_of(described),
        metric,
        headline_of(entry),
        over_seeds([*seeds.values()]),
        in_bytes((folder / WEIGHTS).stat().st_size),
    ]
    return f"| {' | '.join(cells)} |\n"


def algorithm_of(described: Description) -> str:
    """With a link to its paper."""
    name = described.algorithm or described.model
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", described.paper)
    return f"[{name}](https://arxiv.org/abs/{found[1]})" if found else name


def over_seeds(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{with_error(mean, deviation)} ({len(values)})"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.test_models_page`"


def test_the_table_of_the_readme_agrees():
    lines = re.findall(r"^\| \[`([\w.-]+)`\]\(checkpoints/shipped/\S+\) \|.*$", README.read_text(), re.MULTILINE)
    assert 5 < len(lines) <= 12
    for name in lines:
        (line,) = re.findall(rf"^\| \[`{name}`\].*$", README.read_text(), re.MULTILINE)
        cells = row(shipped()[name]).split(" | ")
        assert cells[4] in line or (cells[5] and cells[5].split(" (")[0] in line), (name, cells[4:6])


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.2642, 0.0613, "1.264 ± 0.061"),
        (11955.6, 110.1, "11,956 ± 110"),
        (500.0, 0.0, "500"),
        (7.93, 1e-15, "7.93"),
        (0.00305, 0.00051, "0.00305 ± 0.00051"),
    ],
)
def test_numbers_end_with_their_error(value, error, text):
    assert with_error(value, error) == text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
