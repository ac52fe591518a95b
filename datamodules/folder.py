"""A user's own pictures: one folder a class."""

import os
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from datamodules.images import ImageDataModule
from datamodules.memory import Split
from datamodules.pictures import picture_endings, read_picture
from zoo.errors import UserError


class ImageFolder(ImageDataModule):
    """Your own pictures: one folder a class below `root`, scaled and centre-cropped to `size` x `size`.

    Of each class, each tenth picture (by file name) is for validation and the one after it for testing; of a class of
    fewer than ten, the last two. Names that begin with a dot are ignored. Transparent parts are shown on white, and
    pictures are turned as their EXIF data say.

    Args:
        root: folder of class folders.
        size: height and width in pixels.
        grayscale: whether to drop the colours.
        batch_size, batches_per_epoch, horizontal_flip, seed: see `ImageDataModule`.
    """

    def __init__(
        self,
        root: str,
        size: int = 32,
        grayscale: bool = False,
        batch_size: int = 64,
        batches_per_epoch: int | None = None,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, batches_per_epoch, horizontal_flip, seed)
        if size < 1:
            raise UserError(f"data.size must be at least 1, got {size}")
        self.root, self.size, self.grayscale = root, size, grayscale
        self.image_shape = (1 if grayscale else 3, size, size)
        self._files, self._skipped = _list(root)
        self.num_classes = len(self._files)
        self.label_names = (tuple(self._files),)  # of the one label column

    def prepare_data(self) -> None:
        """Reads the pictures, and says what was found."""
        super().prepare_data()
        counts = ", ".join(f"{name} {len(files)}" for name, files in self._files.items())
        print(f"{self.root}: pictures of {self.num_classes} classes, by label: {counts}", file=sys.stderr)
        if self._skipped:
            kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(self._skipped.items()))
            print(f"{self.root}: skipped files that are no pictures known to Pillow: {kinds}", file=sys.stderr)

    def _read(self) -> dict[str, Split]:
        from torchvision.transforms import v2

        steps = [v2.PILToTensor(), v2.Resize(self.size, antialias=True), v2.CenterCrop(self.size)]
        prepare = v2.Compose([*steps, v2.Grayscale()] if self.grayscale else steps)
        parts: dict[str, list[tuple[Tensor, int]]] = {"train": [], "val": [], "test": []}
        for label, files in enumerate(self._files.values()):
            for i, path in enumerate(files):
                parts[_split_of(i, len(files))].append((prepare(read_picture(path)), label))
        return {
            split: (torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items]))
            for split, items in parts.items()
        }


def _split_of(index: int, count: int) -> str:
    """Of picture `index` of the `count` of a class."""
    val, test = (8, 9) if count >= 10 else (count - 2, count - 1)
    return {val: "val", test: "test"}.get(index % 10, "train")


def _list(root: str) -> tuple[dict[str, list[Path]], Counter[str]]:
    """(the picture files of each class by the name of its folder, how many files of other endings were skipped).

    Raises:
        UserError: if there is no class folder, or one has fewer than the three pictures that its splits need.
    """
    if not os.path.isdir(root):
        raise UserError(f"data.root {root!r} is not a folder: it must hold one folder of pictures for each class")
    folders = sorted(entry for entry in Path(root).iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise UserError(f"data.root {root!r} holds no folder: it must hold one folder of pictures for each class")
    endings, skipped = picture_endings(), Counter[str]()
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
        classes[folder.name] = [path for path in files if path.suffix.lower() in endings]
        skipped.update(path.suffix or path.name for path in files if path.suffix.lower() not in endings)
        if (count := len(classes[folder.name])) < 3:
            others = f" ({', '.join(sorted(skipped))} are no pictures known to Pillow)" if skipped else ""
            raise UserError(
                f"data.root {root!r}: class {folder.name!r} has {count} pictures, but needs at least 3, for training, "
                f"validation and testing: add some, or remove the folder{others}"
            )
    return classes, skipped


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
