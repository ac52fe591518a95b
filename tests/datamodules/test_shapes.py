import pytest
import torch

from datamodules import Shapes
from zoo.errors import UserError
from zoo.synthetic.shapes import COLOURS, SHAPES, nearest_drawing

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def shapes():
    return Shapes(num_train=60)


def test_sizes(shapes):
    assert shapes.image_shape == (3, 32, 32)
    assert shapes.num_classes == (len(SHAPES), len(COLOURS)) == (3, 6)
    for split, count in zip(SPLITS, (60, 1000, 2000), strict=True):
        images, labels = shapes.images(split), shapes.labels(split)
        assert images.shape == (count, 3, 32, 32)
        assert labels.shape == (count, 2)
        assert labels.dtype == torch.int64
        assert images.min() == -1
        assert images.max() == 1


def test_pictures_follow_from_the_seeds(shapes):
    again, other = Shapes(num_train=60), Shapes(num_train=60, drawing_seed=1)
    for split in SPLITS:
        assert torch.equal(shapes.images(split), again.images(split))
        assert torch.equal(shapes.labels(split), again.labels(split))
    assert not torch.equal(shapes.images("train"), other.images("train"))
    for split in ("val", "test"):
        assert torch.equal(shapes.images(split), other.images(split))


def test_held_out_pictures_do_not_depend_on_the_number_of_training_pictures(shapes):
    more = Shapes(num_train=61)
    for split in ("val", "test"):
        assert torch.equal(shapes.images(split), more.images(split))
    assert len(more.images("train")) == 61


def test_no_picture_is_in_two_splits():
    shapes = Shapes(num_train=1000)
    rows = torch.cat([shapes.images(split).flatten(1) for split in SPLITS])
    assert len(rows.unique(dim=0)) == len(rows) == 4000


@pytest.mark.parametrize("split", SPLITS)
def test_labels_say_what_is_drawn(split, shapes):
    found, error = nearest_drawing(shapes.images(split)[:60])
    assert torch.equal(torch.stack([found.shape, found.colour], dim=1), shapes.labels(split)[:60])
    assert error.max() < 0.006  # 8 bits a channel


def test_batches_have_both_columns(shapes):
    images, labels = next(iter(shapes.train_dataloader()))
    assert images.shape == (64, 3, 32, 32)
    assert labels.shape == (64, 2)


def test_several_shapes_a_picture_have_a_caption_of_columns():
    data = Shapes(num_train=40, side=64, num_shapes=3)
    assert data.image_shape == (3, 64, 64)
    assert data.num_classes == (3, 6, 3, 6, 4, 7)
    assert data.label_names[-1][-1] == "none"
    images, labels = data.images("train"), data.labels("train")
    assert images.shape == (40, 3, 64, 64)
    absent = labels[:, 4] == 3
    assert torch.equal(absent, labels[:, 5] == 6)
    assert 0 < absent.sum() < 40
    assert dict(data.hparams)["num_shapes"] == 3
    two = Shapes(num_train=40, side=64, num_shapes=2)
    assert two.num_classes == (3, 6, 3, 6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_train": 0}, "data.num_train must be at least 1, got 0"),
        ({"drawing_seed": -1}, "data.drawing_seed must be at least 0, got -1"),
        ({"side": 8}, "data.side must be at least 16, got 8"),
        ({"num_shapes": 4}, "data.num_shapes must be 1, 2 or 3, got 4"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    ],
)
def test_mistakes_are_told(options, said):
    with pytest.raises(UserError, match=said):
        Shapes(**options)
