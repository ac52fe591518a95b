"""What several verbs share: numbers, devices, and files that are written whole or not at all."""

import argparse
import os
import stat

import pytest
import torch

from checkpoints.whole import written_whole
from commands.options import at_least, check_output, choose_device
from zoo.errors import UserError

# numbers


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("64", 64), (str(2**63 - 1), 2**63 - 1)])
def test_whole_numbers(text, value):
    assert at_least(1)(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0", "must be at least 1, got 0"),
        ("-3", "must be at least 1, got -3"),
        ("1.5", "must be a whole number, got '1.5'"),
        ("many", "must be a whole number, got 'many'"),
        ("", "must be a whole number, got ''"),
        (str(2**63), "must be at most 9223372036854775807"),
    ],
)
def test_other_numbers_are_told(text, told):
    with pytest.raises(argparse.ArgumentTypeError, match=told):
        at_least(1)(text)


# devices


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_named_devices_are_checked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cpu") == "cpu"
    assert choose_device("cuda:1") == "cuda:1"
    for name in ("cuda:2", "cpu:3", "meta", "xla"):
        with pytest.raises(UserError, match=f"--device '{name}' is not there"):
            choose_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "3", "cpu cuda"])
def test_nonsense_is_no_device(name):
    with pytest.raises(UserError, match=f"--device '{name}' is not a device") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


# outputs


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "b.npy", "a.b.png"])
def test_outputs_that_can_be_written_pass(tmp_path, name):
    check_output(tmp_path / name, (".png", ".npy"))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.jpg", "must end in .png or .npy"),
        ("png", "must end in .png or .npy"),
        ("no/a.png", "no does not exist, create it first"),
        ("folder.png", "is a folder: name a file"),
        ("file.txt/a.png", "file.txt does not exist, create it first"),
    ],
)
def test_outputs_that_cannot_are_told(tmp_path, name, told):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=told):
        check_output(tmp_path / name, (".png", ".npy"))


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"the folder {tmp_path} may not be written to"):
        check_output(tmp_path / "a.png", (".png",))


def test_a_written_file_takes_its_place_with_the_usual_permissions(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    umask = os.umask(0o027)
    try:
        with written_whole(path) as beside:
            assert beside.parent == tmp_path
            assert beside.suffix == ".txt"
            beside.write_text("new")
            assert path.read_text() == "old"
    finally:
        os.umask(umask)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("broken", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("a fault")])
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, broken):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with written_whole(path) as beside:
            beside.write_text("ne")
            raise broken

    if isinstance(broken, OSError):
        with pytest.raises(UserError, match=f"^{path} cannot be written: No space left on device$"):
            write()
    else:
        with pytest.raises(type(broken)):
            write()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["no/a.txt", "a" * 300 + ".txt"])
def test_a_place_where_nothing_can_be_written_is_told(tmp_path, name):
    with pytest.raises(UserError, match="cannot be written"), written_whole(tmp_path / name) as beside:
        beside.write_text("new")
    assert [*tmp_path.iterdir()] == []


def test_a_long_name_is_no_reason_to_fail(tmp_path):
    path = tmp_path / ("a" * 250 + ".txt")
    with written_whole(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
