"""Films of environments: each picture goes to the encoder as it is drawn, so a long film needs no more memory."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from checkpoints.whole import written_whole
from zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from gymnasium import Env

FASTEST_GIF = 50  # pictures a second; most viewers slow down a GIF that asks for more
USUAL_RATE = 30.0  # pictures a second, of an environment that does not say its own
SHADES = 32  # colours of a picture of a GIF
Pixels = NDArray[np.uint8]  # (height, width, 3)


class Encoder(Protocol):
    """Takes pictures of one size until it is full."""

    full: bool

    def add(self, picture: Pixels) -> None: ...

    def close(self) -> None: ...


class Film:
    """What `play` calls after the reset and after each step of an episode: draws the environment into the film.

    The film runs at the speed of the environment, whose metadata says how many steps are a second. Of one with more
    than FASTEST_GIF a GIF shows every second, third, ... step. Episodes must be played one at a time.
    """

    def __init__(self, path: Path, ending: str, width: int | None, most_bytes: float) -> None:
        self._path, self._ending, self._width, self._most_bytes = path, ending, width, most_bytes
        self._encoder: Encoder | None = None
        self._env: Env[Any, Any] | None = None
        self._episode = self._step = self._seen = 0

    def __call__(self, _episode: int, env: "Env[Any, Any]") -> None:
        if env is not self._env:
            self._env, self._episode, self._step = env, self._episode + 1, 0
            _draw_endless_floor(env)
        self._step, self._seen = self._step + 1, self._seen + 1
        rate = float((getattr(env, "metadata", None) or {}).get("render_fps") or USUAL_RATE)
        every = max(1, math.ceil(rate / FASTEST_GIF)) if self._ending == ".gif" else 1
        if (self._seen - 1) % every or (self._encoder is not None and self._encoder.full):
            return
        picture = _draw(env)
        if self._width:
            picture = _resized(picture, self._width)
        if self._encoder is None:
            gif = self._ending == ".gif"
            self._encoder = Gif(self._path, rate / every, self._most_bytes) if gif else Mp4(self._path, picture, rate)
        self._encoder.add(picture)
        if sys.stderr.isatty():
            print(f"\r\033[Kfilming: episode {self._episode}, step {self._step}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the file."""
        if self._encoder is not None:
            self._encoder.close()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def filming(path: Path, *, width: int | None = None, most_bytes: float = math.inf) -> Iterator[Film]:
    """A film that is written to `path`, a .gif or .mp4, when the block ends, and not at all if the block fails.

    Args:
        width: of the pictures; by default as the environment draws them.
        most_bytes: a GIF ends before it would grow larger.

    Raises:
        UserError: if the environment cannot be drawn, or the encoder fails.
    """
    check_video(path)
    with written_whole(path) as beside:
        film = Film(beside, path.suffix.lower(), width, most_bytes)
        try:
            yield film
        finally:
            film.close()


def check_video(path: Path) -> None:
    """Raises a UserError if what a film needs is not installed."""
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError("an .mp4 needs an encoder: pip install 'lightning-zoo[video]', or write a .gif")


class Gif:
    """A GIF of `rate` pictures a second, which ends before it would grow larger than `most_bytes`.

    Each picture holds the rectangle that changed. Times are whole hundredths of a second, rounded from the start of the
    film, so that errors do not add up.
    """

    def __init__(self, path: Path, rate: float, most_bytes: float) -> None:
        self.full = False
        self._file, self._rate, self._most_bytes = path.open("wb"), rate, most_bytes
        self._written = self._bytes = 0
        self._last: Pixels | None = None

    def add(self, picture: Pixels) -> None:
        content = b"".join(self._encode(picture))
        if self._written and self._bytes + len(content) > self._most_bytes:
            self.full = True
            return
        self._file.write(content)
        self._bytes += len(content)
        self._written += 1
        self._last = picture

    def close(self) -> None:
        self._file.write(b";")
        self._file.close()

    def _encode(self, picture: Pixels) -> list[bytes]:
        from PIL import Image
        from PIL.GifImagePlugin import getdata, getheader

        start, end = (round(100 * count / self._rate) for count in (self._written, self._written + 1))
        image = Image.fromarray(picture).quantize(SHADES, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        if self._last is None:
            header, _ = getheader(image.copy(), info={"loop": 0})
            return [*header, *getdata(image, duration=10 * (end - start), include_color_table=True)]
        _check_size(self._last, picture)
        changed = (picture != self._last).any(2)
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
        left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 1)
        part = image.crop((int(left), int(top), int(right), int(bottom)))
        return getdata(part, (int(left), int(top)), duration=10 * (end - start), include_color_table=True)


class Mp4:
    """An H.264 film, by the encoder of imageio-ffmpeg, a process of its own."""

    full = False

    def __init__(self, path: Path, first: Pixels, rate: float) -> None:
        import imageio_ffmpeg

        self._first = first
        size = (first.shape[1], first.shape[0])
        self._writer: Any = imageio_ffmpeg.write_frames(
            str(path), size, fps=rate, macro_block_size=2, ffmpeg_log_level="error"
        )
        self._writer.send(None)

    def add(self, picture: Pixels) -> None:
        _check_size(self._first, picture)
        try:
            self._writer.send(np.ascontiguousarray(picture))
        except OSError as error:
            raise UserError(f"the encoder of the film failed: {one_line(str(error))}") from None

    def close(self) -> None:
        self._writer.close()


def as_pixels(drawn: object) -> Pixels:
    """What an environment draws as (height, width, 3) of 0 ... 255.

    Grey pictures (height, width) or (height, width, 1) become coloured, and a fourth channel is left out. Numbers of
    another type than uint8 are taken for shares of 255 if none is above 1.

    Raises:
        UserError: if it is no such picture.
    """
    array = np.asarray(drawn)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype.kind not in "fiub" or not array.size:
        raise UserError(
            f"the environment draws an array of shape {array.shape} and type {array.dtype}, but a film needs pictures "
            "(height, width, 3) or (height, width)"
        )
    if array.dtype != np.uint8:
        array = array.astype(np.float64)
        array = array * 255 if array.min() >= 0 and array.max() <= 1 else array
        if not (array.min() >= 0 and array.max() <= 255):  # also for NaN
            found = f"{array.min():g} ... {array.max():g}"
            raise UserError(f"the environment draws pictures with numbers {found}, but a film needs 0 ... 255")
        array = array.round().astype(np.uint8)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]


def _draw(env: "Env[Any, Any]") -> Pixels:
    try:
        drawn = env.render()
    except Exception as error:  # whatever a renderer raises
        why = one_line(str(error))
        raise UserError(f"the environment cannot be drawn here (MuJoCo: try MUJOCO_GL=osmesa): {why}") from None
    if drawn is None:
        raise UserError("the environment has no renderer that gives pictures, so there is no video of it")
    return as_pixels(drawn)


def _resized(picture: Pixels, width: int) -> Pixels:
    from PIL import Image

    height = max(1, picture.shape[0] * width // picture.shape[1])
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def _check_size(first: Pixels, picture: Pixels) -> None:
    if picture.shape != first.shape:
        sizes = f"{first.shape[:2]} and {picture.shape[:2]}"
        raise UserError(f"the environment draws pictures of the sizes {sizes}: a film needs one size")


def _draw_endless_floor(env: "Env[Any, Any]") -> None:
    """Makes the floors that MuJoCo draws endless: a runner soon leaves the drawn part of the plane that holds it."""
    model: Any = getattr(env.unwrapped, "model", None)
    if not hasattr(model, "geom_type"):
        return
    for plane in ((model.geom_type == 0) & (model.geom_size[:, 0] > 0)).nonzero()[0]:
        material = model.geom_matid[plane]
        if material >= 0:  # its pattern repeats that often on half the floor; on an endless one, in a metre
            model.mat_texrepeat[material] /= model.geom_size[plane, :2]
        model.geom_size[plane, :2] = 0
