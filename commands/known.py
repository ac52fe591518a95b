"""What files say of the images that `sample` draws: one to fill in, to colour, to enlarge, or to edit."""

import argparse
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.options import KNOWN, STRENGTH
from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MEASURED = ("inpaint", "colour", "enlarge")  # one of these a run


class Given(NamedTuple):
    """What the files say.

    Attributes:
        made: parameter of `sample` -> its value for the samples of some numbers (n,); several images are taken in turn.
        share: how many times the steps of a plain run are taken.
    """

    made: "dict[str, Callable[[Tensor], Any]]" = {}  # noqa: RUF012
    share: float = 1.0

    def arguments(self, turn: "Tensor") -> dict[str, Any]:
        """Arguments of `sample` for the samples of these numbers."""
        return {name: make(turn) for name, make in self.made.items()}

    def steps(self, plain: int | None) -> int | None:
        """The steps that are taken, where a plain run takes so many."""
        return plain and max(1, round(plain * self.share))


def read(args: argparse.Namespace, shape: tuple[int, int, int]) -> Given:
    """Takes these options out of `args.own`, and reads their files.

    Raises:
        UserError: naming the option, if files or options do not fit the model or each other.
    """
    from zoo.diffusion.inverse import averages, inpainting

    names = [name for options in KNOWN.values() for name in options]
    given = {name: args.own.pop(name) for name in names if name in args.own}
    _check(given, args)
    made: dict[str, Callable[[Tensor], Any]] = {}
    share = 1.0
    if "inpaint" in given:
        images, mask = read_images(given["inpaint"], "--inpaint", shape), read_mask(given["mask"], shape)
        made["known"] = lambda turn: inpainting(images[turn % len(images)], mask)
    elif "colour" in given:
        if shape[0] == 1:
            raise UserError(f"--colour has no meaning for {args.model!r}, which draws grey images: leave it out")
        grey = read_images(given["colour"], "--colour", shape, grey=True)
        made["known"] = lambda turn: averages(grey[turn % len(grey)], shape)
    elif "enlarge" in given:
        small = read_images(given["enlarge"], "--enlarge", shape, smaller=True)
        made["known"] = lambda turn: averages(small[turn % len(small)], shape)
    if "known" in made:
        share = args.own.get("repeats", inspect.signature(args.method).parameters["repeats"].default)
    if "edit" in given:
        start, how = read_images(given["edit"], "--edit", shape), given.get("strength", STRENGTH)
        made["edit"], share = lambda turn: (start[turn % len(start)], how), share * how
    return Given(made, share)


def read_images(
    path: Path, option: str, shape: tuple[int, int, int], *, grey: bool = False, smaller: bool = False
) -> "Tensor":
    """Images (N, C, H, W) in [-1, 1] of a model that draws images of a shape.

    Args:
        grey: whether only the mean of the channels is wanted, C = 1.
        smaller: whether H and W may be whole parts of the model's.

    Raises:
        UserError: naming the option, the file, and what is wrong with it.
    """
    what, (channels, height, width) = f"{option} {str(path)!r}", shape
    images = _values(path, option)
    if grey:
        images = images.mean(1, keepdim=True)
    elif channels == 1 and bool((images == images[:, :1]).all()):  # a picture is read as RGB
        images = images[:, :1]
    if not grey and images.shape[1] != channels:
        kinds = {1: "grey", 3: "in colour"}
        found, wanted = (kinds.get(count, f"of {count} channels") for count in (images.shape[1], channels))
        raise UserError(f"{what} is {found}, but the model's images are {wanted}: convert it")
    h, w = images.shape[-2:]
    if (h, w) != (height, width) and not (smaller and height % h == width % w == 0):
        fits = "whole parts of " if smaller else ""
        raise UserError(f"{what} has {h} x {w} pixels, but must have {fits}the model's {height} x {width}: resize it")
    wrong = images[(images < -1) | (images > 1)]
    if len(wrong):
        raise UserError(f"{what} must hold numbers in [-1, 1], got {wrong[0].item():g}")
    return images


def read_mask(path: Path, shape: tuple[int, int, int]) -> "Tensor":
    """(H, W), true where pixels are to be drawn.

    Raises:
        UserError: naming the file, and what is wrong with it.
    """
    what, values = f"--mask {str(path)!r}", _values(path, "--mask")
    if values.shape[-2:] != shape[1:] or values.shape[0] != 1:
        count = f"{len(values)} masks of " if len(values) > 1 else ""
        size = " x ".join(map(str, values.shape[-2:]))
        raise UserError(
            f"{what} has {count}{size} pixels, but must have the image's {shape[1]} x {shape[2]}: resize it"
        )
    if path.suffix.lower() != ".npy":
        return values.mean((0, 1)) > 0  # half way between black and white
    if values.shape[1] != 1 or not bool(((values == 0) | (values == 1)).all()):
        raise UserError(f"{what} must be an array of {shape[1]} x {shape[2]} zeros (keep) and ones (draw)")
    return values[0, 0] == 1


def _check(given: dict[str, Any], args: argparse.Namespace) -> None:
    measured = [f"--{name}" for name in MEASURED if name in given]
    if len(measured) > 1:
        raise UserError(f"{' and '.join(measured)} cannot be combined: leave one out")
    for name, other, why in (
        ("mask", "inpaint", "an image whose pixels it masks"),
        ("inpaint", "mask", "a picture of its size, white where it is to be drawn anew"),
        ("strength", "edit", "an image"),
    ):
        if name in given and other not in given:
            raise UserError(f"--{name} needs --{other}, {why}")
    if "repeats" in args.own and not measured:
        raise UserError("--repeats has a meaning only with --inpaint, --colour or --enlarge: leave it out")


def _values(path: Path, option: str) -> "Tensor":
    """Numbers of a .npy file of two to four axes, or of a picture in [-1, 1], as (N, C, H, W)."""
    import torch

    from datamodules.pictures import read_picture
    from datamodules.tables import read_numbers

    if path.suffix.lower() == ".npy":
        numbers = read_numbers(path, option)
        if not 2 <= numbers.ndim <= 4:
            raise UserError(f"{option} {str(path)!r} must have two to four axes, got the shape {tuple(numbers.shape)}")
        return numbers[(None,) * (4 - numbers.ndim)]
    if not os.path.isfile(path):
        raise UserError(f"{option} {str(path)!r} does not exist")
    picture = read_picture(path)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(1, picture.height, picture.width, 3).permute(0, 3, 1, 2) / 127.5 - 1
