"""Reads a picture file as 8-bit RGB, whatever its bits, orientation and transparency."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from zoo.errors import UserError, one_line


def picture_endings() -> set[str]:
    """The endings of files that this installation of Pillow opens, as ".png"; .avif and .gif where it can."""
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def read_picture(path: Path) -> Image.Image:
    """A picture as 8-bit RGB: turned as its EXIF data say, transparent parts on white, 16 bits or floats scaled.

    A file of several frames gives its first.

    Raises:
        UserError: naming the file, if it is damaged, larger than Pillow's limit of 89 million pixels, or holds floats
            outside of 0 ... 1 or whole numbers of more than 16 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of EXIF data that are damaged, and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.load()
                return _to_rgb(ImageOps.exif_transpose(picture))
    except UserError as error:
        raise UserError(f"picture {str(path)!r} {error}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(
            f"picture {str(path)!r} has more than {limit:.0f} million pixels: make it smaller, or leave it out"
        ) from None
    except Exception as error:  # Pillow meets a damaged file with any of a dozen exceptions
        raise UserError(f"picture {str(path)!r} cannot be read: {one_line(str(error))}; leave it out") from None


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        picture = _to_8_bits(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return picture.convert("RGB")


def _to_8_bits(values: np.ndarray) -> Image.Image:
    """Whole numbers of 16 bits, or floats in 0 ... 1, as 8-bit greys."""
    low, high = values.min(), values.max()
    top = 1 if values.dtype.kind == "f" else 65535
    if not 0 <= low <= high <= top:
        raise UserError(
            f"has values from {low:g} to {high:g}, which must lie in 0 ... {top}: save it with 8 bits a channel"
        )
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
