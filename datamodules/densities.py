"""Points: toy densities of the plane, and a user's own columns of numbers."""

import abc

import torch
from torch import Tensor

from datamodules.memory import InMemoryDataModule, Split
from datamodules.tables import read_numbers
from zoo.errors import UserError
from zoo.synthetic.densities import ENTROPIES_NATS, check_name, draw, log_density


class PointDataModule(InMemoryDataModule, abc.ABC):
    """What the sets of points share: batches of (points (B, D) in the units of the data, labels (B,), all 0).

    Models standardise by `mean` and `std` themselves, so that their densities are in the units of the data.
    """

    provides = ("num_features", "levels", "num_classes")
    num_features: int
    num_classes = 0
    levels = 0  # continuous
    protocol = "density"  # of measurement

    def points(self, split: str) -> Tensor:
        """All points of "train", "val" or "test", (N, D) float32."""
        return self.split(split)[0]

    @property
    def mean(self) -> Tensor:
        """Of the training points, (D,)."""
        return self.points("train").double().mean(0).float()

    @property
    def std(self) -> Tensor:
        """Of the training points, (D,)."""
        return self.points("train").double().std(0).float()


class Densities(PointDataModule):
    """A density of the plane that is known in closed form or by quadrature: see `zoo.synthetic.densities`.

    The validation and test points are the same for every `drawing_seed` and number of training points.

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
        """The mean of -log p(x) in nats: no model's is lower."""
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

    Args:
        path: the file; a .csv may begin with a line of names.
        split_seed: which rows go where.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.
    """

    def __init__(
        self,
        path: str,
        split_seed: int = 0,
        batch_size: int = 256,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        if split_seed < 0:
            raise UserError(f"data.split_seed must be at least 0, got {split_seed}")
        self.path, self.split_seed = path, split_seed
        self._rows = read_numbers(path, "data.path")
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

    def _read(self) -> dict[str, Split]:
        generator = torch.Generator().manual_seed(self.split_seed)
        rows = self._rows[torch.randperm(len(self._rows), generator=generator)]
        tenth = len(rows) // 10
        val, test, train = rows.split([tenth, tenth, len(rows) - 2 * tenth])
        return {"train": _unlabelled(train), "val": _unlabelled(val), "test": _unlabelled(test)}


def _unlabelled(points: Tensor) -> Split:
    return points, torch.zeros(len(points), dtype=torch.int64)
