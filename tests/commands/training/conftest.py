"""Runs that several of these files look at."""

import csv
from pathlib import Path

import pytest

from tests.runs import fit, snapshot


@pytest.fixture(scope="session")
def one_epoch(tmp_path_factory):
    """The first epoch of `tiny_run`; not to be changed."""
    return fit(tmp_path_factory.mktemp("runs") / "one", "--trainer.max_epochs", 1)


@pytest.fixture
def resumable(one_epoch, tmp_path):
    """A copy of the run of one epoch, to go on with."""
    folder = tmp_path / "resumable"
    for path, (content, _) in snapshot(one_epoch).items():
        target = folder / Path(path).relative_to(one_epoch)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def rows():
    """rows(run folder): its log, a dict a row."""

    def read(folder):
        with (folder / "metrics.csv").open(newline="") as file:
            return [*csv.DictReader(file)]

    return read


@pytest.fixture(scope="session")
def curve(rows):
    """curve(run folder, metric): its steps and values."""
    return lambda folder, name: [(int(row["step"]), float(row[name])) for row in rows(folder) if row.get(name)]
