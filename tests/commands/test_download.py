"""The verb: whole or not at all, verified; what is shipped needs neither the network nor Lightning."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import checkpoints
from checkpoints.catalogue import CONFIG, FILES, REFERENCE, WEIGHTS
from tests.hub_server import Fault

MODEL = "hf://me/tiny-waves"
PROGRAM = [sys.executable, "-c", "from commands.main import main; raise SystemExit(main())"]


@pytest.fixture
def published(hub, finished):
    files = {name: (finished / name).read_bytes() for name in FILES}
    hub.add("me/tiny-waves", files | {"evil.py": b"raise SystemExit('it ran')", "../../up.txt": b"up"})
    return hub


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_from_the_hub_into_a_folder(published, command, finished, tmp_path):
    answer = command("download", MODEL, "--to", tmp_path / "mine", "--json")
    assert answer.status == 0
    assert json.loads(answer.out) == {"output": str(tmp_path / "mine")}
    assert names(tmp_path / "mine") == sorted(FILES)
    assert not any(path.is_symlink() for path in (tmp_path / "mine").iterdir())
    assert checkpoints.verify(str(tmp_path / "mine")) == 0
    ours, theirs = (
        checkpoints.load(str(folder)).sample(2, steps=3, generator=torch.Generator().manual_seed(1))
        for folder in (finished, tmp_path / "mine")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_without_a_folder_it_stays_in_the_cache(published, command):
    answer = command("download", MODEL)
    assert answer.status == 0
    assert answer.out.startswith("verified, in ")
    assert (checkpoints.find(MODEL) / CONFIG).is_file()
    assert str(checkpoints.find(MODEL)) in answer.out


def test_any_command_takes_a_model_of_the_hub(published, command, tmp_path):
    outputs = []
    for model, name in ((MODEL, "a.npy"), (checkpoints.find(MODEL), "b.npy")):
        arguments = ("--num-samples", 3, "--steps", 2, "--seed", 4, "--output", tmp_path / name)
        assert command("sample", model, *arguments).status == 0
        outputs.append((tmp_path / name).read_bytes())
    assert outputs[0] == outputs[1]


def test_a_shipped_model_needs_no_network(no_network, command, tmp_path):
    assert command("download", "classifier-digits", "--to", tmp_path / "mine").status == 0
    shipped = checkpoints.shipped()["classifier-digits"]
    assert names(tmp_path / "mine") == names(shipped)
    assert (tmp_path / "mine" / WEIGHTS).read_bytes() == (shipped / WEIGHTS).read_bytes()


def test_a_shipped_model_needs_no_lightning(tmp_path):
    code = """
import socket, sys
def refuse(*_):
    raise AssertionError("a connection was opened")
socket.socket.connect = refuse
from commands.main import main
assert main(["download", "classifier-digits", "--to", sys.argv[1]]) == 0
heavy = {"lightning", "pytorch_lightning", "jsonargparse", "torchvision", "matplotlib", "sklearn", "huggingface_hub"}
assert not heavy & {name.split(".")[0] for name in sys.modules}, heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "mine")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"verified, in {tmp_path / 'mine'}\n"


def test_offline_in_a_process_of_its_own(published, command, tmp_path, cache):
    assert command("download", MODEL).status == 0
    place = checkpoints.find(MODEL).parents[2]
    published.requests.clear()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(place)}

    def run(*arguments):
        return subprocess.run([*PROGRAM, "download", *arguments], env=environment, capture_output=True, text=True)

    done = run(MODEL, "--to", str(tmp_path / "mine"))
    assert (done.returncode, done.stderr) == (0, "")
    done = run("hf://me/another")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the Hub may not be asked (HF_HUB_OFFLINE is set), and the cache does not hold config.json of "
        "me/another@main: try again online\n"
    )
    assert published.requests == []


def test_what_the_client_has_to_say_of_its_own_is_kept_back(published, tmp_path):
    published.faults = [Fault("GET /cdn/", cut=0, times=1)]  # it tries again after a second, and says so
    line = [*PROGRAM, "download", MODEL, "--to", str(tmp_path / "mine")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"verified, in {tmp_path / 'mine'}\n"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /api/models", status=401),
        Fault("GET /api/models", status=500),
        Fault("GET /cdn/", status=500),
        Fault("GET /cdn/", cut=100),
        Fault("GET /cdn/", body=b"wrong"),
        Fault("GET .*/resolve/.*/config.json", body=b"wrong"),
        Fault("GET .*/resolve/", after=0),
    ],
    ids=lambda fault: fault.pattern + str(fault.status or ""),
)
def test_a_fault_is_one_line_and_leaves_no_folder(published, refused, command, tmp_path, fault):
    published.faults = [fault]
    place = tmp_path / "place"
    place.mkdir()
    assert refused("download", MODEL, "--to", place / "mine")
    assert names(place) == []
    published.faults = []
    assert command("download", MODEL, "--to", place / "mine").status == 0
    assert names(place) == ["mine"]


def test_missing_repositories_and_wrong_names(hub, refused):
    assert "there is no repository me/nothing, or it is private" in refused("download", "hf://me/nothing")
    assert "is not of the form hf://owner/repo" in refused("download", "hf://nothing")
    assert "unknown model 'nothing'" in refused("download", "nothing")


def test_a_folder_that_is_there_or_has_no_place_is_told_before_any_download(published, refused, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for there in (tmp_path, tmp_path / "file", tmp_path / "link"):
        assert "exists already: name a new folder" in refused("download", MODEL, "--to", there)
    assert "does not exist" in refused("download", MODEL, "--to", tmp_path / "no" / "mine")
    assert "does not exist" in refused("download", MODEL, "--to", tmp_path / "file" / "mine")
    assert "exists already" in refused("download", MODEL, "--to", "")
    assert published.requests == []


def test_a_name_that_no_folder_can_have(published, refused, tmp_path):
    assert "cannot be written: File name too long" in refused("download", MODEL, "--to", tmp_path / ("a" * 300))
    assert not [path for path in names(tmp_path) if path.startswith(".partial")]


def test_weights_that_do_not_reproduce_the_reference_are_refused(published, refused, finished, tmp_path):
    state = load_file(finished / WEIGHTS)
    state["network.conv_out.bias"] += 0.01
    save_file(state, tmp_path / WEIGHTS)
    published.add("me/tiny-waves", {WEIGHTS: (tmp_path / WEIGHTS).read_bytes()})
    assert "does not reproduce its reference output (off by 0.01)" in refused("download", MODEL, "--to", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_without_reference_is_loaded_instead(published, command, refused, tmp_path, finished):
    folder = shutil.copytree(finished, tmp_path / "mine")
    (folder / REFERENCE).unlink()
    assert command("download", folder, "--to", tmp_path / "copy").status == 0
    (folder / WEIGHTS).write_bytes(b"")
    assert "model.safetensors is not a whole safetensors file" in refused("download", folder, "--to", tmp_path / "b")


def test_killed_in_the_middle_leaves_nothing_and_a_second_try_succeeds(published, command, cache, tmp_path):
    place, kept = tmp_path / "place", cache()
    place.mkdir()
    published.faults = [Fault("GET /cdn/", cut=1000, hold_s=20, times=1)]
    line = [*PROGRAM, "download", MODEL, "--to", str(place / "mine")]
    running = subprocess.Popen(line, env=os.environ | {"HF_HUB_CACHE": str(kept)}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not published.lines("GET /cdn/") and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert names(place) == []
    published.faults = []
    assert command("download", MODEL, "--to", place / "mine").status == 0
    assert names(place) == ["mine"]


def test_the_cache_is_not_written_to_by_an_update(published, refused):
    assert f"`download {MODEL} --to DIR`, then --update DIR" in refused("evaluate", MODEL, "--update")
    assert published.requests == []
