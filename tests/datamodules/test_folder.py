import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageFolder
from datamodules.pictures import picture_endings, read_picture
from tests.standins import write_pictures
from zoo.errors import UserError


def greys(picture):
    return np.asarray(picture.convert("L"), dtype=int)


# splits and labels --------------------------------------------------------------------------------------------------


def test_each_class_is_split_by_tenths(tmp_path):
    pixels = write_pictures(tmp_path, counts={"bees": 13, "ants": 21}, height=6, width=6)
    data = ImageFolder(str(tmp_path), size=6)
    assert (data.image_shape, data.num_classes, data.levels) == ((3, 6, 6), 2, 256)
    assert data.label_names == (("ants", "bees"),)
    rows = {
        "train": ([i for i in range(21) if i % 10 < 8], [i for i in range(13) if i % 10 < 8]),
        "val": ([8, 18], [8]),
        "test": ([9, 19], [9]),
    }
    for split, (ants, bees) in rows.items():
        files = np.concatenate([pixels["ants"][ants], pixels["bees"][bees]]).transpose(0, 3, 1, 2)
        assert torch.equal(data.split(split)[0], torch.from_numpy(files))
        assert data.labels(split).tolist() == [0] * len(ants) + [1] * len(bees)


@pytest.mark.parametrize("count", [3, 5, 9, 10])
def test_every_class_is_in_every_split(count, tmp_path):
    write_pictures(tmp_path, counts=dict.fromkeys("abcd", count), height=3, width=3)
    data = ImageFolder(str(tmp_path), size=3)
    for split in ("train", "val", "test"):
        assert set(data.labels(split).tolist()) == {0, 1, 2, 3}
    assert sum(len(data.labels(split)) for split in ("train", "val", "test")) == 4 * count


def test_hidden_names_are_ignored_and_other_files_counted(tmp_path, capsys):
    write_pictures(tmp_path, counts={"cats": 4, "dogs": 3, ".ipynb_checkpoints": 1}, height=3, width=3)
    (tmp_path / "cats" / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/00.png", "._00.png", ".DS_Store"):
        (tmp_path / "cats" / name).write_bytes(b"no picture")
    (tmp_path / "dogs" / "notes.txt").write_text("good dogs")
    data = ImageFolder(str(tmp_path), size=3)
    data.prepare_data()
    assert data.label_names == (("cats", "dogs"),)
    assert data.labels("train").tolist() == [0, 0, 1]
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{tmp_path}: pictures of 2 classes, by label: cats 4, dogs 3"
    assert second == f"{tmp_path}: skipped files that are no pictures known to Pillow: 1 .txt"


# what is in a file --------------------------------------------------------------------------------------------------


def test_pictures_are_scaled_on_their_short_side_and_cropped_at_the_centre(tmp_path):
    (tmp_path / "all").mkdir()
    for i in range(10):
        # 6 high, 14 wide: a white square of 6 in the middle of black
        picture = np.zeros((6, 14, 3), dtype=np.uint8)
        picture[:, 4:10] = 255
        Image.fromarray(picture).save(tmp_path / "all" / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=3)
    assert data.images("train").shape == (8, 3, 3, 3)
    # the crop is the square, but for the blur of the scaling at its left and right edge
    assert torch.equal(data.images("train")[..., 1], torch.ones(8, 3, 3))
    assert data.images("train").min() > 0.5


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("grayscale", [False, True])
def test_pictures_of_every_mode_are_read_as_colours_or_grey(mode, grayscale, tmp_path):
    (tmp_path / "all").mkdir()
    red = Image.new("RGB", (5, 5), (204, 0, 0)).convert(mode)  # a colour of the palette
    for i in range(10):
        red.save(tmp_path / "all" / f"{i}.png")
    data = ImageFolder(str(tmp_path), size=5, grayscale=grayscale)
    data.setup()
    grey = 0.299 * 204  # the luma of ITU-R 601
    expected = [grey] if grayscale else [grey] * 3 if mode == "L" else [204, 0, 0]
    assert data.images("train").shape == (8, len(expected), 5, 5) == (8, *data.image_shape)
    colour = (data.images("train") + 1).mean(dim=(0, 2, 3)) * 127.5
    assert torch.allclose(colour, torch.tensor(expected).float(), atol=1.0)


RAMP = np.arange(0, 65536, 257).reshape(16, 16)  # the 256 greys in 16 bits


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bits_keep_every_grey(ending, tmp_path):
    path = tmp_path / f"ramp{ending}"
    Image.fromarray(RAMP.astype(np.uint16)).save(path)
    assert np.array_equal(greys(read_picture(path)), np.arange(256).reshape(16, 16))


def test_floats_between_0_and_1_are_scaled_and_others_refused(tmp_path):
    path = tmp_path / "ramp.tif"
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(path)
    assert np.array_equal(greys(read_picture(path)), np.arange(256).reshape(16, 16))
    Image.fromarray(np.full((2, 2), 3.5, dtype=np.float32)).save(path)
    with pytest.raises(UserError, match=r"ramp.tif' has values from 3.5 to 3.5, which must lie in 0 ... 1"):
        read_picture(path)


def test_the_orientation_of_a_camera_is_followed(tmp_path):
    picture = Image.new("RGB", (4, 2))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.png", exif=exif)
    read = greys(read_picture(tmp_path / "turned.png"))
    assert read.shape == (4, 2)
    assert np.argwhere(read == 255).tolist() == [[0, 1]], "the top left corner is at the top right"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB"])
def test_transparent_parts_are_white(mode, tmp_path):
    """Whatever colour is hidden there."""
    picture, options, path = Image.new("RGBA", (2, 1), (0, 0, 0, 255)), {}, tmp_path / "a.png"
    picture.putpixel((0, 0), (200, 0, 0, 0))
    if mode == "P":
        picture, options, path = Image.new("P", (2, 1), 1), {"transparency": 0}, tmp_path / "a.gif"
        picture.putpalette([200, 0, 0, 0, 0, 0])
        picture.putpixel((0, 0), 0)
    elif mode == "PA":
        picture = picture.quantize()
    elif mode == "RGB":
        picture, options = picture.convert("RGB"), {"transparency": (200, 0, 0)}
    else:
        picture = picture.convert(mode)
    picture.save(path, **options)
    assert greys(read_picture(path)).tolist() == [[255, 0]]


@pytest.mark.parametrize("ending", [".gif", ".webp", ".avif", ".bmp", ".jpg", ".JPEG"])
def test_pictures_of_many_endings_are_read(ending, tmp_path):
    if ending.lower() not in picture_endings():
        pytest.skip(f"this Pillow opens no {ending}")
    (tmp_path / "all").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 80 * i, 80 * i)).save(tmp_path / "all" / f"{i}{ending}")
    data = ImageFolder(str(tmp_path), size=8)
    means = [(data.images(split).mean() + 1) * 127.5 for split in ("train", "val", "test")]
    assert torch.allclose(torch.stack(means), torch.tensor([0.0, 80, 160]), atol=3)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height):
    """A PNG file whose header promises a size, with next to nothing behind it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "w.png")
    return (tmp_path / "w.png").read_bytes()[:5000]


DAMAGED = {
    "empty": lambda _: b"",
    "text": lambda _: b"no picture",
    "truncated": truncated,
    "bad header": lambda _: b"\x89PNG\r\n\x1a\n" + b"\xff" * 40,
    "large": lambda _: png(12_000, 12_000),
    "huge": lambda _: png(60_000, 60_000),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_picture_is_named_in_one_line(kind, tmp_path):
    write_pictures(tmp_path, counts={"a": 4}, height=4, width=5)
    content = DAMAGED[kind](tmp_path)
    (tmp_path / "a" / "02.png").write_bytes(content)
    reason = "has more than 89 million pixels" if kind in ("large", "huge") else "cannot be read: "
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=rf"^picture '[^\n]*02.png' {reason}[^\n]*leave it out$"):
            ImageFolder(str(tmp_path), size=4).setup()


# folders ------------------------------------------------------------------------------------------------------------


def test_a_class_of_two_pictures_is_refused(tmp_path):
    write_pictures(tmp_path, counts={"a": 4, "b": 2}, height=3, width=4)
    with pytest.raises(UserError, match=r"^data.root .*: class 'b' has 2 pictures, but needs at least 3"):
        ImageFolder(str(tmp_path), size=3)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data.root '.*nowhere' is not a folder: it must hold one folder of pictures"):
        ImageFolder(str(tmp_path / "nowhere"))
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(UserError, match=r"data.root .* holds no folder"):
        ImageFolder(str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heif").write_text("")
    with pytest.raises(UserError, match=r"class 'empty' has 0 pictures, .* \(.heif are no pictures known to Pillow\)$"):
        ImageFolder(str(tmp_path))
    with pytest.raises(UserError, match=r"data.size must be at least 1, got 0"):
        ImageFolder(str(tmp_path), size=0)
