import numpy as np
import pytest
import torch

from datamodules import Densities, Points
from datamodules.tables import check_rows, in_order, read_numbers, read_table
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


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
@pytest.mark.parametrize("quote", ["", '"'])
def test_tables_of_other_programs_are_read(delimiter, quote, tmp_path):
    lines = [("a", "b c"), (1.5, -2), (1e3, 0.25)]
    text = "\n".join(delimiter.join(f"{quote}{field}{quote}" for field in line) for line in lines)
    rows, names = read_table(write(tmp_path, "a.csv", text), "--input")
    assert (rows.tolist(), names) == ([[1.5, -2], [1000, 0.25]], ("a", "b c"))


def test_columns_are_matched_by_name_or_else_by_position_with_a_note():
    rows = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    assert torch.equal(in_order(rows, ("c", "a", "b"), ("a", "b", "c"), "x")[0], rows[:, [1, 2, 0]])
    assert in_order(rows, ("c", "a", "b"), ("a", "b"), "x")[0].shape == (2, 2), "other columns are left out"
    assert in_order(rows, ("a", "b", "c"), (), "x") == (rows, "")
    same, note = in_order(rows, (), ("a", "b", "c"), "x")
    assert same is rows
    assert note == "x has no column names: its columns are taken in the order a, b, c"
    with pytest.raises(UserError, match="x has no column 'd', which the model learned: its columns are a, b, c"):
        in_order(rows, ("a", "b", "c"), ("d", "a", "b"), "x")


def test_large_numbers_keep_their_digits(tmp_path):
    """Unix seconds: a float32 is 128 of them wide."""
    seconds = 1.7e9 + np.random.default_rng(0).normal(size=(200, 2)) * [10, 300]
    data = Points(write(tmp_path, "a.npy", seconds))
    assert data.points("train").dtype == torch.float64
    assert data.std.numpy() == pytest.approx(np.std(seconds, 0), rel=0.1)
    together = torch.cat([data.points(split) for split in SPLITS])
    assert sorted(together[:, 0].tolist()) == sorted(seconds[:, 0])
    assert Points(write(tmp_path, "b.npy", seconds - 1.7e9)).points("train").dtype == torch.float32


def test_whole_numbers_and_repeated_rows_are_pointed_out(tmp_path, capsys):
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, 5, 100), rng.normal(size=100), 0.5 * rng.integers(0, 3, 100)], 1)
    text = "n,x,half\n" + "\n".join(",".join(map(str, row)) for row in counts)
    path = write(tmp_path, "a.csv", text)
    assert Points(path).columns == ("n", "x", "half")
    Points(path).prepare_data()
    assert "few different values in column n, half: its density grows without bound" in capsys.readouterr().err
    spread = Points(path, dequantise=True)
    spread.prepare_data()
    assert capsys.readouterr().err == ""
    plain, noisy = (torch.cat([data.points(split) for split in SPLITS]) for data in (Points(path), spread))
    moved = (noisy - plain).abs().amax(0)
    assert (moved[1], 0.4 < moved[0] <= 0.5, 0.2 < moved[2] <= 0.25) == (0, True, True)
    again = Points(path, dequantise=True)
    assert torch.equal(again.points("test"), spread.points("test"))
    Points(write(tmp_path, "b.npy", np.concatenate([counts[:, 1:2]] * 2))).prepare_data()
    assert "100 of 200 rows are repeated" in capsys.readouterr().err


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
        ("a.csv", "x,y\n1,2\n3,four\n", "row 2 below the names, column 2 is 'four', which is no number$"),
        ("a.csv", "1,2\n3\n", "cannot be read as numbers: .*number of columns"),
        ("a.csv", "1,2\n3,NA\n" * 20, r"row 2, column 2 is missing \('NA'\): leave such rows out"),
        ("a.csv", "1,2\n3,\n" * 20, r"row 2, column 2 is missing \(''\): leave such rows out"),
        ("a.csv", "a;b\n1,5;2\n", "row 1 below the names, column 1 is '1,5', .*; write decimals with a point"),
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
