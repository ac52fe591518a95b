"""Time series, in windows of whole numbers that an autoregressive model of grey levels takes."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from datamodules.memory import InMemoryDataModule, Split
from datamodules.tables import read_table
from zoo.errors import UserError

# of statsmodels: name -> unit; a file has a column of years, then values, row by row
SERIES = {"elnino": "sea surface temperature, °C", "sunspots": "sunspots"}
MARGIN = 0.25  # of the range of the training values, that the levels go beyond it on both sides


class Series(InMemoryDataModule):
    """Batches of (windows (B, 1, T, 1) in [-1, 1], labels (B,), all 0) of a series, T = context + horizon steps.

    So a window is an image of one column, whose first rows are the past, and a forecast is a sample given these. Values
    are rounded to levels, which the training values set. The first 70 % of the series train, the next 10 % validate and
    the rest tests; windows of the latter two have their last `horizon` steps there, and their contexts reach back.

    Args:
        series: "elnino", months of 1950 to 2010, or "sunspots", years of 1700 to 2008: files of statsmodels.
        path: a .csv or .npy file of one column of yours, in place of them.
        context: steps that a forecast is given.
        horizon: steps of a forecast.
        season: steps of a season, of the forecasts that a model is compared with.
        levels: of the values.
        batch_size, batches_per_epoch, seed: see `InMemoryDataModule`.

    References:
        NOAA's ERSST.V3B, Nino 1+2, and SIDC's yearly sunspot number: both in the public domain.
    """

    provides = ("image_shape", "levels", "num_classes")
    num_classes = 0
    protocol = "forecast"

    def __init__(
        self,
        series: str = "elnino",
        path: str | None = None,
        context: int = 60,
        horizon: int = 12,
        season: int = 12,
        levels: int = 256,
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, seed)
        if series not in SERIES:
            raise UserError(f"data.series must be one of {', '.join(SERIES)}, got {series!r}")
        for name, least in (("context", 1), ("horizon", 1), ("season", 1), ("levels", 2)):
            if (value := self.hparams[name]) < least:
                raise UserError(f"data.{name} must be at least {least}, got {value}")
        self.series, self.path, self.context, self.horizon = series, path, context, horizon
        self.season, self.levels, self.image_shape = season, levels, (1, context + horizon, 1)
        self.unit = "values" if path else SERIES[series]
        self._values: Tensor | None = None

    def values(self) -> Tensor:
        """The whole series, (N,) float64, from its file.

        Raises:
            UserError: if the file is missing, has several columns, or is too short.
        """
        if self._values is not None:
            return self._values
        path, option = (self.path, "data.path") if self.path else (_of_statsmodels(self.series), "statsmodels'")
        rows = read_table(path, option)[0]
        rows = rows if self.path else rows[:, 1:]
        if self.path and rows.ndim > 1 and rows.shape[1] != 1:
            raise UserError(f"data.path {self.path!r} must hold one column, got {rows.shape[1]}")
        values = rows.flatten()
        if len(values) // 10 < self.horizon or int(0.7 * len(values)) < self.context + self.horizon:
            raise UserError(
                f"{option} {str(path)!r} has {len(values)} steps, too few for a context of {self.context} and a "
                f"horizon of {self.horizon}"
            )
        self._values = values
        return values

    def windows(self, split: str) -> Tensor:
        """All windows of "train", "val" or "test", (N, 1, T, 1) in [-1, 1]."""
        return self._prepare(self.split(split)[0], training=False)

    def bounds(self, split: str) -> tuple[int, int]:
        """The first step of "train", "val" or "test" in the series, and the one after its last."""
        count = len(self.values())
        ends = [0, int(0.7 * count), int(0.8 * count), count]
        i = ("train", "val", "test").index(split)
        return ends[i], ends[i + 1]

    def scale(self) -> tuple[float, float]:
        """The values at -1 and at 1."""
        train = self.values()[: self.bounds("train")[1]]
        low, high = train.min().item(), train.max().item()
        margin = MARGIN * (high - low)
        if not margin:
            raise UserError("the training part of the series is constant: there is nothing to learn")
        return low - margin, high + margin

    def to_values(self, x: Tensor) -> Tensor:
        """Numbers of a model, in [-1, 1], in the units of the series."""
        low, high = self.scale()
        return low + (x.double() + 1) / 2 * (high - low)

    def _read(self) -> dict[str, Split]:
        values, (low, high) = self.values(), self.scale()
        index = ((values - low) / (high - low) * (self.levels - 1)).round().clamp(0, self.levels - 1)
        found = {}
        for split in ("train", "val", "test"):
            first, end = self.bounds(split)
            part = index[max(0, first - self.context) : end]
            windows = part.unfold(0, self.context + self.horizon, 1)[:, None, :, None].float()
            found[split] = windows, torch.zeros(len(windows), dtype=torch.int64)
        return found

    def _prepare(self, inputs: Tensor, *, training: bool) -> Tensor:
        return inputs * (2 / (self.levels - 1)) - 1


def _of_statsmodels(series: str) -> Path:
    """The file of a series in statsmodels, which is not imported: it would bring in pandas."""
    found = find_spec("statsmodels")
    if found is None or found.origin is None:
        raise UserError(f"data.series {series!r} is a file of the package statsmodels: pip install statsmodels")
    return Path(found.origin).parent / "datasets" / series / f"{series}.csv"
