"""Films: the right speed, the right pictures, and no more memory for a longer one."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from commands.drawing.films import Film, as_pixels, filming
from zoo.errors import UserError


def environment(pictures, rate=None):
    """Draws the pictures one after another."""
    pictures = iter(pictures)
    env = SimpleNamespace(metadata={"render_fps": rate} if rate else {}, render=lambda: next(pictures))
    env.unwrapped = env
    return env


def moving(count, size=(20, 30)):
    """A square that walks to the right over a grey gradient."""
    for i in range(count):
        picture = np.broadcast_to(np.linspace(0, 255, size[1])[:, None], (*size, 3)).astype(np.uint8).copy()
        picture[5:10, i % (size[1] - 5) : i % (size[1] - 5) + 5] = (200, 30, 30)
        yield picture


def film_of(path, pictures, rate=None, **options):
    pictures = list(pictures)
    env = environment(pictures, rate)
    with filming(path, **options) as film:
        for _ in pictures:
            film(0, env)
    return path


def frames(path):
    """The pictures of a GIF, and their durations in milliseconds."""
    with Image.open(path) as film:
        shown, durations = [], []
        for i in range(film.n_frames):
            film.seek(i)
            shown.append(np.asarray(film.convert("RGB"), dtype=int))
            durations.append(film.info["duration"])
    return shown, durations


@pytest.mark.parametrize(
    ("rate", "every", "durations"),
    [(None, 1, {30, 40}), (20, 1, {50}), (50, 1, {20}), (30, 1, {30, 40}), (125, 3, {20, 30}), (1000, 20, {20})],
)
def test_a_gif_runs_at_the_speed_of_the_environment(tmp_path, rate, every, durations):
    shown, found = frames(film_of(tmp_path / "a.gif", moving(60), rate))
    assert len(shown) == 60 // every
    assert set(found) <= durations
    assert sum(found) / 1000 == pytest.approx(60 / (rate or 30), abs=0.011), "the rounding does not add up"


def test_each_picture_is_what_was_drawn(tmp_path):
    pictures = [*moving(12)]
    pictures.insert(5, pictures[4])  # nothing moved
    shown, _ = frames(film_of(tmp_path / "a.gif", pictures, 20))
    for picture, drawn in zip(shown, pictures, strict=True):
        assert np.abs(picture - drawn).mean() < 6, "32 shades of a gradient"


def test_frames_are_not_held(tmp_path):
    """Each is given to the encoder, and free before the next but one is drawn, without a garbage collection."""
    alive = []

    def drawn():
        for picture in moving(12):
            assert sum(held() is not None for held in alive) <= 2
            alive.append(weakref.ref(picture))
            yield picture

    env = environment(drawn(), 50)
    with filming(tmp_path / "a.gif") as film:
        for _ in range(12):
            film(0, env)
    assert len(alive) == 12


def test_a_gif_of_limited_size_shows_consecutive_pictures_until_it_is_full(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (50, 40, 40, 3), dtype=np.uint8)
    path = film_of(tmp_path / "a.gif", noise, 20, most_bytes=20_000)
    shown, _ = frames(path)
    assert 3 < len(shown) < 40
    assert path.stat().st_size <= 20_001


def test_an_mp4_has_the_rate_of_the_environment(tmp_path):
    reader = pytest.importorskip("imageio_ffmpeg").read_frames
    path = film_of(tmp_path / "a.mp4", moving(30, (32, 48)), 125)
    assert next(reader(str(path)))["fps"] == 125


@pytest.mark.parametrize(
    "drawn",
    [
        np.full((2, 3, 3), 0.5),
        np.full((2, 3), 0.5, np.float32),
        np.full((2, 3, 1), 127.5),
        np.full((2, 3, 4), 128, np.uint8),
        np.full((2, 3), 128, np.int64),
    ],
)
def test_float_and_grey_pictures_are_understood(drawn):
    pixels = as_pixels(drawn)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)
    assert (pixels == 128).all()


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"array of shape \(3, 8, 9\)"),
        (np.zeros(5), "array of shape"),
        ("text", "array of shape"),
        (np.full((2, 2), -1.0), "with numbers -1 ... -1"),
        (np.full((2, 2), 300), "with numbers 300 ... 300"),
        (np.full((2, 2), np.nan), "with numbers nan"),
    ],
)
def test_what_is_no_picture_is_refused(drawn, message):
    with pytest.raises(UserError, match=message):
        as_pixels(drawn)


def test_a_film_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="one size"):
        film_of(tmp_path / "a.gif", [*moving(3), np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(UserError, match="no renderer"):
        film_of(tmp_path / "a.gif", [None])

    def interrupted():
        yield from moving(3)
        raise KeyboardInterrupt

    env = environment(interrupted())
    with pytest.raises(KeyboardInterrupt), filming(tmp_path / "a.gif") as film:  # noqa: PT012
        for _ in range(4):
            film(0, env)
    assert [*tmp_path.iterdir()] == []


def test_the_floor_of_mujoco_is_drawn_without_an_end(tmp_path):
    mujoco = pytest.importorskip("mujoco")
    floor = "<texture name='t' type='2d' builtin='checker' width='8' height='8'/>"
    floor += "<material name='m' texture='t' texrepeat='60 80'/>"
    scene = "<geom type='plane' size='30 40 1' material='m'/><geom type='capsule' size='0.1 1'/>"
    model = mujoco.MjModel.from_xml_string(f"<mujoco><asset>{floor}</asset><worldbody>{scene}</worldbody></mujoco>")
    for _ in range(2):  # another film of the same environment changes no more
        film, env = Film(tmp_path / "a.gif", ".gif", None, 1e9), environment(moving(1))
        env.model = model
        film(0, env)
        film.close()
        assert model.geom_size.tolist() == [[0, 0, 1], [0.1, 1, 0]]
        assert model.mat_texrepeat.tolist() == [[2, 2]], "as large as it was"
