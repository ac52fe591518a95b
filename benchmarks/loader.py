"""Whether the loader is a bottleneck: time of a batch compared with that of an update and of torch's DataLoader.

python benchmarks/loader.py
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from datamodules import Digits
from lightning_modules import DDPM


def per_item(items: Iterable[Any], work: Callable[[Any], None] = lambda item: None) -> float:
    """Median seconds from one item to the next."""
    times = []
    for item in items:
        work(item)
        times.append(time.perf_counter())
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def main() -> None:
    data = Digits(batches_per_epoch=40)
    images, labels = data.images("train"), data.labels("train")
    model = DDPM(image_shape=(1, 8, 8), num_classes=10).model.train()

    def update(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        t = torch.randint(1, 1001, (len(batch[0]),))
        model.loss(batch[0], t, torch.randn_like(batch[0])).mean().backward()

    ours, theirs, work = [], [], []
    for _ in range(5):
        ours.append(per_item(data.train_dataloader()))
        theirs.append(per_item(DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True, drop_last=True)))
        work.append(per_item(data.train_dataloader(), update) - ours[-1])
    a, b, c = (1e3 * statistics.median(values) for values in (ours, theirs, work))
    print(f"a batch of 64: {a:.3f} ms, torch's DataLoader {b:.3f} ms; forward and backward {c:.1f} ms")
    print(f"the loader takes {100 * a / (a + c):.2f} % of a step")


if __name__ == "__main__":
    main()
