import numpy as np
import pytest
import torch

from datamodules import Densities, Points
from datamodules.tables import check_rows, read_numbers
from zoo.errors import UserError
from zoo.synthetic.densities import ENTROPIES_NATS

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def rings():
    return Densities("rings", num_train=300)


def write(folder, name, content):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, content)
    else:
        path.write_text(content)
    return str(path)


# densities ----------------------------------------------------------------------------------------------------------


def test_sizes(rings):
    assert (rings.num_features, rings.num_classes, rings.levels) == (2, 0, 0)
    assert getattr(rings, "image_shape", None) is None
    for split, count in zip(SPLITS, (300, 20_000, 100_000), strict=True):
        assert rings.points(split).shape == (count, 2)
        assert rings.split(split)[1].tolist() == [0] * count
    assert rings.entropy == ENTROPIES_NATS["rings"]
    assert rings.log_density(rings.points("val")).shape == (20_000,)


def test_points_follow_from_the_seeds(rings):
    again, other, more = (
        Densities("rings", **o) for o in ({"num_train": 300}, {"drawing_seed": 1}, {"num_train": 301})
    )
    assert torch.equal(rings.points("train"), again.points("train"))
    assert not torch.equal(rings.points("train"), other.points("train")[:300])
    for data in (again, other, more):
        for split in ("val", "test"):
            assert torch.equal(rings.points(split), data.points(split))


def test_no_point_is_in_two_splits():
    data = Densities("8gaussians", num_train=50_000)
    rows = torch.cat([data.points(split) for split in SPLITS])
    # two coordinates of 24 bits each: a chance meeting of 170,000 points is rarer than one in a thousand
    assert len(rows.unique(dim=0)) == len(rows) == 170_000


def test_mean_and_std_are_those_of_the_training_points(rings):
    x = rings.points("train").numpy().astype(np.float64)
    assert rings.mean.numpy() == pytest.approx(x.mean(0), rel=1e-6)
    assert rings.std.numpy() == pytest.approx(x.std(0, ddof=1), rel=1e-6)


def test_batches_are_points_in_the_units_of_the_data(rings):
    points, labels = next(iter(Densities("rings", num_train=300, batch_size=300).train_dataloader()))
    assert torch.equal(points.unique(dim=0), rings.points("train").unique(dim=0))
    assert labels.tolist() == [0] * 300
    assert torch.equal(next(iter(rings.test_dataloader()))[0], rings.points("test")[:512])


def test_a_stream_goes_on_where_it_was(rings):
    batches = [points for points, _ in Densities("rings", num_train=300, batch_size=40).train_dataloader()]
    again = Densities("rings", num_train=300, batch_size=40)
    again.load_state_dict({"drawn": 5})
    assert torch.equal(next(iter(again.train_dataloader()))[0], batches[5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "moon"}, "data.name must be one of moons, circles"),
        ({"num_train": 1}, "data.num_train must be at least 2, got 1"),
        ({"drawing_seed": -1}, "data.drawing_seed must be at least 0, got -1"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(UserError, match=message):
        Densities(**options)


# a user's own -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine.npy", "mine.csv", "named.csv"])
def test_own_points_are_split_into_disjoint_rows(name, tmp_path):
    rows = np.arange(37 * 3, dtype=np.float32).reshape(37, 3)
    text = "\n".join(",".join(map(str, row)) for row in rows)
    content = rows if name == "mine.npy" else "a,b,c\n" * (name == "named.csv") + text + "\n\n"
    data = Points(write(tmp_path, name, content))
    assert (data.num_features, data.num_classes, data.levels) == (3, 0, 0)
    assert [len(data.points(split)) for split in SPLITS] == [31, 3, 3]
    together = torch.cat([data.points(split) for split in SPLITS]).numpy()
    assert sorted(together.tolist()) == rows.tolist()
    assert together.tolist() != rows.tolist(), "in random order: rows of a file are often sorted"
    other = Points(data.path, split_seed=1)
    assert not torch.equal(other.points("test"), data.points("test"))


GOOD = np.random.default_rng(0).normal(size=(30, 3))


def spoilt(value, row=4, column=2):
    rows = GOOD.copy()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.txt", "1,2", "must be a file that ends in .npy or .csv"),
        ("a.npy", GOOD[:1], "must hold at least 20 rows to split, got 1"),
        ("a.npy", GOOD[:, 0], r"must hold rows and columns, got shape \(30,\)"),
        ("a.npy", GOOD[:0], r"must hold at least one row of numbers, got an array of shape \(0, 3\)"),
        ("a.npy", spoilt(np.nan), r"row 5, column 3 is nan \(counted from 1\)"),
        ("a.npy", spoilt(-np.inf), r"row 5, column 3 is -inf"),
        ("a.npy", spoilt(1e39), r"row 5, column 3 is inf"),
        ("a.npy", GOOD * [1, 0, 1], r"column 2 \(counted from 1\) is constant"),
        ("a.npy", GOOD.astype(str), "must hold real numbers, got <U"),
        ("a.npy", GOOD * 1j, "must hold real numbers, got complex128"),
        ("a.npy", np.array([None, {}]), "cannot be read as numbers: Object arrays"),
        ("a.csv", "x,y\n1,2\n3,four\n", "cannot be read as numbers: could not convert string 'four'"),
        ("a.csv", "1,2\n3\n", "cannot be read as numbers: .*number of columns"),
        ("a.csv", "1,2\n3,nan\n" * 20, "row 2, column 2 is nan"),
        ("a.csv", "x,y\n", "must hold at least one row of numbers"),
        ("a.csv", "", "must hold at least one row of numbers"),
    ],
)
def test_files_that_are_no_points(name, content, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        Points(write(tmp_path, name, content))
    assert "data.path" in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_or_foreign_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_numbers(tmp_path / "nothing.npy", "--input")
    (tmp_path / "false.npy").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81,1\n")
    for name in ("false.npy", "bytes.csv"):
        with pytest.raises(UserError, match=r"--input .* cannot be read as numbers"):
            read_numbers(tmp_path / name, "--input")


def test_rows_of_another_shape():
    check_rows(torch.zeros(5, 3), (3,), "--input 'x'")
    with pytest.raises(UserError, match="--input 'x' has 3 columns, but the model is of 2"):
        check_rows(torch.zeros(5, 3), (2,), "--input 'x'")
    with pytest.raises(UserError, match=r"has rows of shape \(3,\), but the model is of shape \(1, 8, 6\)"):
        check_rows(torch.zeros(5, 3), (1, 8, 6), "--input 'x'")
