"""Whatever happens while something is written, the old is there or the new, and nothing else.

Disks are full in three ways: a write or a rename that fails, a limit on the size of files (write errors for real), and
where this may mount one, a disk of 64 kB.
"""

import errno
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.catalogue import ANIMATION, CARD, CLIP, CONFIG, FILES, PICTURE, RESULTS
from commands import evaluate
from commands.main import main
from commands.measures.common import Measurement
from lightning_modules.trainer.checkpoint_io import WholeFileIO
from tests import runs

NEW = ("sample.png", "sample.npy", "sample.safetensors", "export", "download")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A training checkpoint with its config beside it."""
    place = tmp_path_factory.mktemp("run")
    arguments = {"image_shape": [1, 8, 8], "num_classes": 10, "channels": 16}
    state = checkpoints.build("image-classifier", arguments).state_dict()
    content = {"model": "image-classifier", "arguments": arguments, "origin": {"seed": 0}, "global_step": 1}
    torch.save(content | {"state_dict": {f"model.{name}": it for name, it in state.items()}}, place / "last.ckpt")
    (place / "config.yaml").write_text("seed_everything: 0\n" * 100)
    return place / "last.ckpt"


@pytest.fixture
def arguments(finished, checkpoint):
    """verb -> the command line that writes into a folder."""

    def of(verb, place):
        if verb.startswith("sample"):
            return ["sample", finished, "--num-samples", 90, "--steps", 1, "--output", place / verb]
        if verb == "export":
            return ["export", checkpoint, place / "model"]
        return ["download", finished, "--to", place / "model"]

    return of


def contents(place):
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def is_whole(place):
    """Whether a folder holds nothing, or the one thing that was asked for, complete."""
    made = [*place.iterdir()]
    if made == []:
        return True
    assert len(made) == 1, made
    if made[0].is_dir():
        assert checkpoints.verify(str(made[0])) == 0
        assert (made[0] / "train.yaml").is_file()
    assert not made[0].name.startswith(".")
    return True


# a write or a rename that fails


@pytest.mark.parametrize("verb", NEW)
@pytest.mark.parametrize("function", ["replace", "rename"])
def test_a_failing_rename_leaves_the_place_empty(verb, function, arguments, refused, command, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    place = tmp_path / "place"
    place.mkdir()
    uses_it = function == ("replace" if verb.startswith("sample") else "rename")
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        if uses_it:
            assert refused(*arguments(verb, place)).endswith("cannot be written: No space left on device\n")
            assert contents(place) == {}
            assert [*place.iterdir()] == []
    assert command(*arguments(verb, place)).status == 0
    assert [*place.iterdir()]


# files of limited size


def limited(answer, size, words):
    """A command in a process that may not write files larger than `size`."""
    sys.stderr = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    answer.send((main(words), sys.stderr.getvalue()))


def run_limited(size, words):
    here, there = runs.PROCESSES.Pipe()
    process = runs.PROCESSES.Process(target=limited, args=(there, size, [str(word) for word in words]))
    process.start()
    assert here.poll(120)
    process.join()
    return here.recv()


@pytest.mark.parametrize("verb", NEW)
@pytest.mark.parametrize("size", [10, 1500])
def test_a_file_that_grows_too_large_leaves_the_place_empty(verb, size, arguments, command, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    status, told = run_limited(size, arguments(verb, place))
    assert status == 2, told
    assert told.startswith("error: ")
    assert told.endswith("cannot be written: File too large\n")
    assert told.count("\n") == 1
    assert [*place.iterdir()] == []
    assert command(*arguments(verb, place)).status == 0
    assert is_whole(place)


@pytest.mark.parametrize("verb", ["sample.png", "sample.npy", "sample.safetensors"])
def test_the_old_file_stays(verb, arguments, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / verb).write_bytes(b"the old")
    status, told = run_limited(100, arguments(verb, place))
    assert (status, told.count("\n")) == (2, 1)
    assert contents(place) == {verb: b"the old"}


# a small disk


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("may not mount a disk here; the other tests have failing writes too")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("verb", ["export", "download", "sample.npy"])
def test_a_full_disk_is_as_it_was(verb, arguments, refused, command, small_disk, tmp_path):
    (small_disk / "other").write_bytes(bytes(50_000))
    assert "cannot be written: No space left on device" in refused(*arguments(verb, small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["other"]


# a process that is killed


def die(count, place, words):
    """A command that dies as it touches `place` for the `count`-th time: opens, makes, renames or removes something."""
    left = count

    def watch(event, details):
        nonlocal left
        if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(details[0]).startswith(place):
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(watch)
    sys.exit(main(words))


@pytest.mark.parametrize("verb", ["sample.npy", "export", "download"])
def test_a_killed_command_leaves_nothing_or_all(verb, arguments, tmp_path):
    for count in range(1, 100):
        place = tmp_path / str(count)
        place.mkdir()
        words = [str(word) for word in arguments(verb, place)]
        process = runs.PROCESSES.Process(target=die, args=(count, str(place), words))
        process.start()
        process.join(120)
        for left in place.glob(".partial-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        assert is_whole(place)
        if process.exitcode == 0:
            break
        assert process.exitcode == 9
    assert count > 3
    assert [*place.iterdir()], "when nothing kills it, it is there"


# a card that is measured again


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A model folder with a card and a picture, whose numbers change at the next measurement, which takes no time."""
    numbers = iter(range(1, 100))
    monkeypatch.setattr(
        evaluate,
        "measure",
        lambda *_, **__: {"fid": Measurement(float(next(numbers)), 0.5, 25, "draws")},
    )
    arguments = {"image_shape": [1, 8, 8], "channels": 4}
    state = checkpoints.build("image-diffusion", arguments).state_dict()
    folder = tmp_path / "place" / "model"
    folder.parent.mkdir()
    origin = {"seed": 0, "steps": 1, "commit": "", "data": "digits"}
    checkpoints.save(folder, "image-diffusion", arguments, state, origin)
    assert main(["evaluate", str(folder), "--update"]) == 0
    return folder


def value(folder):
    """The number in the results, which must be that of the card too."""
    number = json.loads((folder / RESULTS).read_text())["metrics"]["fid"]["value"]
    assert f"| fid | {number:.4f}" in (folder / CARD).read_text()
    return number


def test_measured_again_numbers_and_card_agree(measured, command):
    assert {path.name for path in measured.iterdir()} == {*FILES} - {"train.yaml", ANIMATION, CLIP}
    assert value(measured) == 1
    assert command("evaluate", measured, "--update").status == 0
    assert value(measured) == 2
    assert [*measured.parent.iterdir()] == [measured]


@pytest.mark.parametrize("file", [PICTURE, CONFIG, RESULTS, CARD])
def test_a_failing_update_changes_nothing(measured, refused, command, monkeypatch, file):
    before = contents(measured.parent)
    write, replace = Path.write_text, os.replace

    def fail_at_write(path, *arguments, **options):
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    def fail_at_picture(source, target):
        if Path(target).name == file == PICTURE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail_at_write)
        patch.setattr(os, "replace", fail_at_picture)
        assert "No space left on device" in refused("evaluate", measured, "--update")
    assert contents(measured.parent) == before
    assert command("evaluate", measured, "--update").status == 0
    assert value(measured) > 1


# checkpoints of a run


def save(path, number, **changes):
    WholeFileIO().save_checkpoint({"number": number, "weight": torch.full((1000,), number)} | changes, path)


def number(path):
    content = torch.load(path, weights_only=True)
    assert (content["weight"] == content["number"]).all()
    return content["number"]


def test_a_checkpoint_replaces_the_one_before(tmp_path):
    path = tmp_path / "new" / "folder" / "last.ckpt"
    for i in range(3):
        save(path, i)
        assert number(path) == i
    assert [*path.parent.iterdir()] == [path]
    with pytest.raises(TypeError, match="storage_options"):
        WholeFileIO().save_checkpoint({}, path, storage_options={})


def save_limited(path, log):
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    try:
        save(path, 2)
    except OSError as error:
        log.write_text(str(error))


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path):
    path, log = tmp_path / "run" / "last.ckpt", tmp_path / "log"
    save(path, 1)
    process = runs.PROCESSES.Process(target=save_limited, args=(path, log))
    process.start()
    process.join(120)
    assert log.read_text() == "[Errno 27] File too large"
    assert number(path) == 1
    assert [*path.parent.iterdir()] == [path]


def test_a_checkpoint_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    with pytest.raises(Exception, match="pickle"):
        save(tmp_path / "last.ckpt", 1, wrong=lambda: None)
    assert [*tmp_path.iterdir()] == []


def save_and_die(save, path):
    """Dies half-way through the write."""

    class Dying:
        def __init__(self, file):
            self.file, self.left = file, 2000

        def write(self, data):
            self.file.write(bytes(data)[: self.left])
            self.file.flush()
            self.left -= len(data)
            if self.left < 0:
                os._exit(9)
            return len(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    write = torch.save
    torch.save = lambda content, file: write(content, Dying(file))
    save(path, 2)


def plain_save(path, number):
    with open(path, "wb") as file:
        torch.save({"number": number, "weight": torch.full((1000,), number)}, file)


@pytest.mark.parametrize("how", [plain_save, save])
def test_a_run_that_dies_while_it_writes(tmp_path, how):
    path = tmp_path / "last.ckpt"
    save(path, 1)
    process = runs.PROCESSES.Process(target=save_and_die, args=(how, path))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    if how is plain_save:
        with pytest.raises(Exception, match="archive"):
            number(path)
        return
    assert number(path) == 1
    save(path, 3)
    assert number(path) == 3
    assert [*tmp_path.iterdir()] == [path], "what the dead run has left is gone"
