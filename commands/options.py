"""Options that several verbs share, checked: each mistake is one line that says the fix."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

MOST = 2**63 - 1  # of a 64-bit number
STRENGTH = 0.6  # of --edit


def whole(text: str) -> int:
    """An argparse type: a whole number of at most 64 bits."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
    if abs(value) > MOST:
        raise argparse.ArgumentTypeError(f"must be at most {MOST} in size, got {value}")
    return value


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at most 64 bits, not below `least`."""

    def parse(text: str) -> int:
        value = whole(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return parse


def number(text: str) -> float:
    """An argparse type: a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def share(text: str) -> float:
    """An argparse type: a number in 0 ... 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="where the model runs: auto, cpu, cuda, cuda:1, mps")


def add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="bf16 is faster where the hardware has it"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: worth it for long runs, needs a C++ compiler"
    )


def speed_up(network: "nn.Module", device: str, precision: str, compiled: bool) -> None:
    """Lets a network run in bfloat16, or compiled, as the options of `add_speed` ask."""
    import torch

    if precision == "bf16":
        in_bf16 = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
        network.forward = in_bf16(network.forward)
    if compiled:
        network.compile()


def has_bfloat16(accelerator: str) -> bool:
    """Whether the device that Lightning's "auto", "cpu", "gpu" or "cuda" stands for multiplies bfloat16 in hardware."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available()):
        return getattr(torch.cpu, "_is_amx_tile_supported", bool)()  # AMX: the plain vector units gain nothing
    return False


def choose_device(name: str) -> str:
    """A device that is there; "auto" takes a GPU if it finds one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is not a device: use auto, cpu, cuda, cuda:1 or mps") from None
    available = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise UserError(f"--device {name!r} is not there on this machine: use --device auto")
    return name


def check_output(path: Path, endings: tuple[str, ...], option: str = "--output") -> None:
    """Refuses a file that could not be written, or whose ending is unknown, before any work is done."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{option} {str(path)!r} must end in {' or '.join(endings)}")
    folder = path.resolve().parent
    if not os.path.isdir(folder):
        raise UserError(f"{option} {str(path)!r}: the folder {folder} does not exist, create it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{option} {str(path)!r}: the folder {folder} may not be written to")
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that is too long
        raise UserError(f"{option} {str(path)!r} is a folder: name a file")


def strength(text: str) -> float:
    """An argparse type: how strongly an image is edited."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def _file(text: str) -> dict[str, Any]:
    return {"type": Path, "metavar": "FILE", "help": f"{text}; a picture, or .npy of one or several in [-1, 1]"}


# parameter of a model's `sample` -> options that stand for it, with their arguments of argparse's `add_argument`
KNOWN: dict[str, dict[str, dict[str, Any]]] = {
    "known": {
        "inpaint": _file("image whose part under the --mask is drawn anew"),
        "mask": {
            "type": Path,
            "metavar": "FILE",
            "help": "what is drawn anew: the white of a picture of the image's size, or 1 among 0 in .npy",
        },
        "colour": _file("grey image to colour"),
        "enlarge": _file("small image to enlarge, by a whole number of times"),
    },
    "edit": {
        "edit": _file("image to edit, towards the --labels if some are given"),
        "strength": {
            "type": strength,
            "metavar": "X",
            "help": f"of --edit: how much is changed, up to 1, which keeps nothing (default: {STRENGTH})",
        },
    },
}
