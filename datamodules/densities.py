"""Points: toy densities of the plane, and a user's own columns of numbers."""

import abc
import sys

import torch
from torch import Tensor

from datamodules.memory import InMemoryDataModule, Split
from datamodules.tables import read_table
from zoo.errors import UserError
from zoo.synthetic.densities import ENTROPIES_NATS, check_name, draw, log_density


class PointDataModule(InMemoryDataModule, abc.ABC):
    """Shared by data sets of points: batches of (points (B, D) in the units of the data, labels (B,), all 0).

    Models standardise by `mean` and `std` themselves, so that their densities are in the units of the data.
    """

    provides = ("num_features", "levels", "num_classes")
    num_features: int
    num_classes = 0
    levels = 0  # continuous
    protocol = "density"  # of measurement

    def points(self, split: str) -> Tensor:
        """All points of "train", "val" or "test", (N, D)."""
        return self.split(split)[0]

    @property
    def mean(self) -> Tensor:
        """Of the training points, (D,) float64."""
        return self.points("train").double().mean(0)

    @property
    def std(self) -> Tensor:
        """Of the training points, (D,) float64."""
        return self.points("train").double().std(0)


class Densities(PointDataModule):
    """A density of the plane that is known in closed form or by quadrature: see `zoo.synthetic.densities`.

    Validation and test points do not depend on `drawing_seed` or on the number of training points.

    Args:
        name: moons, circles, rings, pinwheel, 8gaussians, checkerboard, 2spirals or swissroll.
        num_train: training points, 8 bytes each.
        drawing_seed: of the training points.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.
    """

    num_features = 2
    num_val, num_test = 20_000, 100_000

    def __init__(
        self,
        name: str = "moons",
        num_train: int = 1_000_000,
        drawing_seed: int = 0,
        batch_size: int = 512,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        check_name(name)
        if num_train < 2:
            raise UserError(f"data.num_train must be at least 2, got {num_train}")
        if drawing_seed < 0:
            raise UserError(f"data.drawing_seed must be at least 0, got {drawing_seed}")
        self.density, self.num_train, self.drawing_seed = name, num_train, drawing_seed

    @property
    def entropy(self) -> float:
        """The mean of -log p(x) in nats, a lower bound of every model's NLL."""
        return ENTROPIES_NATS[self.density]

    def log_density(self, points: Tensor) -> Tensor:
        """log p(x) in nats, (B,) float64, of points (B, 2)."""
        return log_density(self.density, points)

    def _read(self) -> dict[str, Split]:
        seeds = {"val": 0, "test": 1, "train": 2 + self.drawing_seed}
        counts = {"val": self.num_val, "test": self.num_test, "train": self.num_train}
        return {
            split: _unlabelled(draw(self.density, counts[split], torch.Generator().manual_seed(seed)))
            for split, seed in seeds.items()
        }


class Points(PointDataModule):
    """Your own points: the rows of a .npy or .csv file, a tenth of them for validation and a tenth for testing.

    Rows are float32, or float64 if float32 would round away more than 1/10,000 of a column's standard deviation, as
    for times in seconds since 1970; a model must then centre them before it rounds.

    Args:
        path: the file; a .csv may begin with a line of names.
        split_seed: which rows go where.
        dequantise: whether to add uniform noise, as wide as the step between its values, to each column that has few
            different values. A density of such a column grows without bound, since it can put a spike on each value;
            with the noise, -log p is at least that of the discrete values.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.
    """

    def __init__(
        self,
        path: str,
        split_seed: int = 0,
        dequantise: bool = False,
        batch_size: int = 256,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        if split_seed < 0:
            raise UserError(f"data.split_seed must be at least 0, got {split_seed}")
        self.path, self.split_seed, self.dequantise = path, split_seed, dequantise
        self._rows, self.columns = read_table(path, "data.path")
        if self._rows.ndim != 2:
            raise UserError(f"data.path {path!r} must hold rows and columns, got shape {tuple(self._rows.shape)}")
        if len(self._rows) < 20:
            raise UserError(f"data.path {path!r} must hold at least 20 rows to split, got {len(self._rows)}")
        self.num_features = self._rows.shape[1]
        still = (self.points("train").amax(0) == self.points("train").amin(0)).nonzero()
        if len(still):
            raise UserError(
                f"data.path {path!r}: column {int(still[0]) + 1} (counted from 1) is constant, so it has no density: "
                "leave it out"
            )

    def prepare_data(self) -> None:
        """Reads the points, and warns of columns and rows that make a density meaningless."""
        super().prepare_data()
        if not self.dequantise and (coarse := coarse_columns(self._rows)):
            named = ", ".join(self.columns[i] if self.columns else str(i + 1) for i in coarse)
            print(
                f"{self.path}: few different values in column {named}: its density grows without bound, and says "
                "little; --data.dequantise true spreads each value over its step",
                file=sys.stderr,
            )
        if repeated := len(self._rows) - len(self._rows.unique(dim=0)):
            print(
                f"{self.path}: {repeated} of {len(self._rows)} rows are repeated; where one is in training and another "
                "in validation, the scores are too good",
                file=sys.stderr,
            )

    def _read(self) -> dict[str, Split]:
        rows, generator = self._rows, torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(len(rows), generator=generator)
        if self.dequantise:
            rows = rows.clone()
            for column, step in coarse_columns(rows).items():
                rows[:, column] += step * (torch.rand(len(rows), generator=generator, dtype=rows.dtype) - 0.5)
        lost = (rows.float() - rows).abs().amax(0)
        rows = rows.float() if bool((lost <= 1e-4 * rows.std(0)).all()) else rows
        tenth = len(rows) // 10
        val, test, train = rows[order].split([tenth, tenth, len(rows) - 2 * tenth])
        return {"train": _unlabelled(train), "val": _unlabelled(val), "test": _unlabelled(test)}


def coarse_columns(rows: Tensor) -> dict[int, float]:
    """Columns of rows (N, D) that have fewer different values than half of N: each with its smallest step."""
    found = {}
    for i, column in enumerate(rows.T):
        values = column.unique()
        if 1 < len(values) < len(rows) / 2:
            found[i] = float(values.diff().min())
    return found


def _unlabelled(points: Tensor) -> Split:
    return points, torch.zeros(len(points), dtype=torch.int64)
