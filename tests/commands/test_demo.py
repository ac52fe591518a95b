"""`demo`: a short training, then a picture; and never at the cost of what someone else has in the folder."""

import pytest
from PIL import Image

import checkpoints
from commands.demo import MARK, prepare
from commands.training import cli as train
from tests.conftest import save_diffusion
from zoo.errors import UserError

# the demo's own config, made tiny
TINY = {
    "--model.channels": 8,
    "--model.num_timesteps": 60,
    "--data.batch_size": 5,
    "--data.batches_per_epoch": 3,
    "--trainer.max_epochs": 1,
    "--trainer.limit_val_batches": 1,
    "--trainer.log_every_n_steps": 1,
    "--trainer.accelerator": "cpu",
    "--trainer.enable_progress_bar": "false",
    "--trainer.callbacks.num_samples": 4,
    "--trainer.callbacks.steps": 3,
}


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The demo trains for six steps, and the shipped model that it compares with is a tiny one."""
    run, options = train.run, [str(word) for pair in TINY.items() for word in pair]
    monkeypatch.setattr(train, "run", lambda verb, arguments: run(verb, [*arguments, *options]))
    load, asked = checkpoints.load, []
    of_model = {"image_shape": [1, 28, 28], "num_timesteps": 60, "num_classes": 10, "null_label": True, "patch_size": 2}
    shipped = load(str(save_diffusion(tmp_path / "shipped", **of_model)))
    monkeypatch.setattr(
        checkpoints, "load", lambda name: asked.append(name) or (shipped if name == "cfg-mnist5k" else load(name))
    )
    return asked


def test_a_demo_draws_and_can_be_run_again(command, short, tmp_path):
    folder = tmp_path / "runs" / "demo"
    for _ in range(2):
        answer = command("demo", "--folder", folder)
        assert answer.status == 0, answer.err
        assert f"Look at {folder / 'samples.png'}" in answer.out
        assert {"samples.png", "curves.png", "last.ckpt", "config.yaml", MARK} <= {p.name for p in folder.iterdir()}
        with Image.open(folder / "samples.png") as image:
            image.load()
            assert image.width > 2 * image.height, "three panels side by side"
    assert short == ["classifier-mnist5k", "cfg-mnist5k"] * 2


def test_an_interrupted_training_is_handed_on(command, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "run", lambda *_: 130)
    assert command("demo", "--folder", tmp_path / "demo").status == 130
    monkeypatch.setattr(train, "run", lambda *_: 1)
    assert command("demo", "--folder", tmp_path / "demo").status == 1, "the folder may be used again"


@pytest.mark.parametrize("name", ["config.yaml", "last.ckpt", "photo.jpg", ".hidden"])
def test_a_folder_that_is_no_demo_is_untouched(refused, tmp_path, name):
    """Not even that of a training run, which looks like a demo but for its mark."""
    (tmp_path / name).write_text("precious")
    assert "is not empty, and not an earlier demo" in refused("demo", "--folder", tmp_path)
    assert (tmp_path / name).read_text() == "precious"
    assert len([*tmp_path.iterdir()]) == 1


def test_a_file_in_its_place_is_told(refused, tmp_path):
    (tmp_path / "file").write_text("precious")
    for place in (tmp_path / "file", tmp_path / "file" / "demo"):
        assert f"--folder '{place}' cannot be used" in refused("demo", "--folder", place)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_link_to_a_demo_is_told(tmp_path):
    prepare(tmp_path / "demo")
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    with pytest.raises(UserError, match="cannot be used"):
        prepare(tmp_path / "link")
    assert (tmp_path / "demo" / MARK).is_file()


def test_an_empty_folder_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "new" / "demo"):
        prepare(place)
        assert [path.name for path in place.iterdir()] == [MARK]
        prepare(place)
        (place / MARK).unlink()
