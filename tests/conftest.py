"""What the tests of several folders share: tiny model folders with random weights, and the command line in process."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

import checkpoints
from checkpoints.catalogue import ANIMATION, CARD, CLIP, PICTURE, RESULTS, TRAINING
from commands.main import main

pytest_plugins = ["tests.hub_server"]

LIMIT_S, SLOW_LIMIT_S = 300, 3000  # ten times what the longest test takes on a busy machine

ORIGIN = {"seed": 7, "commit": "0" * 40, "steps": 3, "data": "digits"}


def save_diffusion(folder: Path, origin: dict | None = None, **changes) -> Path:
    """A model folder of a tiny diffusion model; its weights are random, so that its output is not all zeros."""
    arguments = {"image_shape": [3, 8, 4], "channels": 4, "num_timesteps": 20, **changes}
    outline = checkpoints.build("image-diffusion", arguments).state_dict()
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.2 * torch.randn(weight.shape, generator=generator) for name, weight in outline.items()}
    checkpoints.save(folder, "image-diffusion", arguments, state, ORIGIN | (origin or {}))
    return folder


def save_noisy_classifier(folder: Path, **changes) -> Path:
    """A model folder of a tiny noisy classifier that fits the tiny diffusion models."""
    arguments = {"image_shape": [3, 8, 4], "num_classes": 5, "channels": 4, "num_timesteps": 20, **changes}
    outline = checkpoints.build("noisy-classifier", arguments).state_dict()
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.2 * torch.randn(weight.shape, generator=generator) for name, weight in outline.items()}
    checkpoints.save(folder, "noisy-classifier", arguments, state, dict(ORIGIN))
    return folder


def save_flow(folder: Path, name: str, origin: dict | None = None, **arguments) -> Path:
    """A model folder of a flow whose weights are random, so that it is not the identity."""
    model = checkpoints.build(name, arguments)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    checkpoints.save(folder, name, arguments, model.state_dict(), ORIGIN | (origin or {}))
    return folder


@pytest.hookimpl(wrapper=True)
def limited(item: pytest.Item) -> Generator[None]:
    """Ends a test that hangs, wherever Python waits; `faulthandler_timeout` ends the process where it does not."""
    limit = SLOW_LIMIT_S if item.get_closest_marker("slow") else LIMIT_S

    def end(*_: object) -> None:
        pytest.fail(f"still running after {limit} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = limited


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """An unconditional diffusion model of 20 steps on images (3, 8, 4); not to be changed."""
    return save_diffusion(tmp_path_factory.mktemp("models") / "tiny-waves")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory):
    """The same with 5 classes."""
    return save_diffusion(tmp_path_factory.mktemp("models") / "tiny-classes", num_classes=5)


@pytest.fixture(scope="session")
def free(tmp_path_factory):
    """The same with 5 classes and a null label."""
    return save_diffusion(tmp_path_factory.mktemp("models") / "tiny-free", num_classes=5, null_label=True)


@pytest.fixture(scope="session")
def named(tmp_path_factory):
    """The same with the shapes and colours of `Shapes`, and a null label for each."""
    folder = tmp_path_factory.mktemp("models") / "tiny-shapes"
    return save_diffusion(folder, num_classes=[3, 6], null_label=True, origin={"data": "shapes"})


@pytest.fixture(scope="session")
def noisy_classifier(tmp_path_factory):
    """A classifier of noised images of 5 classes, which can guide the unconditional model."""
    return save_noisy_classifier(tmp_path_factory.mktemp("models") / "tiny-noisy")


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """A flow of the plane; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "tiny-moons"
    return save_flow(folder, "realnvp", {"data": "moons"}, shape=[2], couplings=3, hidden=4, linear=True)


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    """A flow of points of three columns and 4 classes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-space"
    return save_flow(folder, "nice", shape=[3], num_classes=4, hidden=4)


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """A flow of digits."""
    return save_flow(tmp_path_factory.mktemp("models") / "tiny-pixels", "nice", shape=[1, 8, 8], levels=17, hidden=4)


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """The unconditional model as an author leaves it: with results, card, picture, clip and training config."""
    from checkpoints.card import render  # brings in huggingface_hub, which must find its environment set

    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("finished") / "tiny-waves"))
    metric = {"value": 1.25, "spread": 0.5, "size": 25, "protocol": "mean of 25 draws"}
    results = {"command": "lightning-zoo evaluate tiny-waves --full", "metrics": {"fid": metric}, "picture": PICTURE}
    (folder / RESULTS).write_text(json.dumps(results))
    (folder / TRAINING).write_text("seed_everything: 7\n")
    Image.new("RGB", (8, 8)).save(folder / PICTURE)
    Image.new("P", (8, 8)).save(folder / CLIP)  # a policy's; here so that every file a folder may hold is tried
    Image.new("RGB", (8, 8)).save(folder / ANIMATION)
    (folder / CARD).write_text(render(folder))
    return folder


@pytest.fixture
def copy(tmp_path):
    """Copies a model folder to where a test may change it."""
    return lambda folder: Path(shutil.copytree(folder, tmp_path / folder.name))


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs a command line in this process: command("sample", folder, ...) -> (status, out, err)."""

    def run(*arguments) -> Answer:
        monkeypatch.setattr(sys, "argv", ["lightning-zoo"])
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # --help and --print_config end so
            status = stop.code or 0
        return Answer(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(command):
    """Runs a command line that must end with exit status 2 and exactly one line on standard error; returns the line."""

    def run(*arguments) -> str:
        answer = command(*arguments)
        assert answer.status == 2, answer
        assert answer.out == ""
        assert answer.err.startswith("error: ")
        assert answer.err.count("\n") == 1, answer.err
        assert answer.err.endswith("\n")
        return answer.err

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The folder of a run of two epochs of tests/tiny.yaml; not to be changed."""
    from tests.runs import fit

    return fit(tmp_path_factory.mktemp("runs") / "tiny")
