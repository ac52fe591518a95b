"""The wheel holds the packages, the configs and the models, nothing else, and works away from the checkout."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import checkpoints
from zoo.protocols import Player, Sampler, Writer

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"zoo", "checkpoints", "lightning_modules", "datamodules", "commands", "configs", "lightning_zoo"}
NOT_SOURCE = (".git", ".venv", "runs", "data", "build", "dist", "*.egg-info", ".*_cache")
# runs the command lines that it reads, one after another, and says what each printed and where its modules came from
CALL = """
import contextlib, io, json, os, sys
from commands.main import main
answers = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(arguments)
    answers.append((status, out.getvalue()))
packages = ("zoo", "checkpoints", "lightning_modules", "datamodules", "commands", "configs", "lightning_zoo")
modules = [it for name, it in list(sys.modules.items()) if name.split(".")[0] in packages]
files = [it.__file__ or next(iter(it.__path__)) for it in modules]
print(json.dumps({"answers": answers, "files": files}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, with litter in it such as users have."""
    root = tmp_path_factory.mktemp("wheel")
    source = Path(shutil.copytree(ROOT, root / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE)))
    for package in PACKAGES:
        (source / package / "__pycache__").mkdir(exist_ok=True)
        (source / package / "__pycache__" / "litter.cpython-311.pyc").write_bytes(b"litter")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(root), str(source)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = root.glob("*.whl")
    return path


def call(unpacked, folder, commands):
    """What each command line prints where only the unpacked wheel is in sight, all of them in one process."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        input=json.dumps(commands), capture_output=True, text=True, check=False, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["files"]) > 5
    assert all(unpacked in Path(file).parents for file in answer["files"]), answer["files"]
    assert all(status == 0 for status, _ in answer["answers"]), done.stderr
    return [out for _, out in answer["answers"]]


def test_it_holds_the_packages_the_configs_and_the_models_only(wheel):
    """File by file as they are here."""
    python = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    configs = {*(ROOT / "configs").glob("*.yaml")}
    models = {path for folder in checkpoints.shipped().values() for path in folder.iterdir()}
    expected = {str(path.relative_to(ROOT)) for path in python | configs | models} | {"zoo/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
        assert all(archive.read(name) == (ROOT / name).read_bytes() for name in expected)


def test_it_has_the_command_the_licence_and_the_readme(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        text = {name.split(".dist-info/")[1]: archive.read(name).decode() for name in names}
    assert "lightning-zoo = commands.main:main" in text["entry_points.txt"]
    assert set(text["top_level.txt"].split()) == PACKAGES
    assert "Apache License" in text["licenses/LICENSE"]
    assert "# lightning-zoo" in text["METADATA"]
    assert "Requires-Dist: lightning>=2.6.6" in text["METADATA"]


def one_of_each_class():
    """model class -> the name of a shipped model."""
    models = {name: json.loads((folder / "config.json").read_text()) for name, folder in checkpoints.shipped().items()}
    return {config["model"]: name for name, config in reversed(models.items())}


def what_it_does(name):
    """The command line that makes a model do what it is for; None for a model that its reference output checks."""
    model = checkpoints.load(name)
    if isinstance(model, Player):
        return ["rollout", name, "--episodes", "1", "--seed", "1", "--json"]
    if isinstance(model, Sampler):
        own = {"steps": "2", "source": "314"}
        options = [
            word for key in own if key in inspect.signature(model.sample).parameters for word in (f"--{key}", own[key])
        ]
        output = ["--json"] if isinstance(model, Writer) else ["--output", f"{name}.npy"]
        return ["sample", name, "--num-samples", "3", *options, "--seed", "1", *output]
    return None


def test_the_models_work_elsewhere(wheel, tmp_path, monkeypatch, command):
    """All load and pass their own check; one of each class draws and plays what it draws and plays here."""
    unpacked, there, here = tmp_path / "unpacked", tmp_path / "there", tmp_path / "here"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    there.mkdir()
    here.mkdir()
    names = [*checkpoints.shipped()]
    calls = [words for name in one_of_each_class().values() if (words := what_it_does(name))]
    listed, *rest = call(unpacked, there, [["list", "--json"], *(["download", name] for name in names), *calls])
    assert [row["name"] for row in json.loads(listed)] == names
    monkeypatch.chdir(here)
    for words, out in zip(calls, rest[len(names) :], strict=True):
        answer = command(*words)
        if words[0] == "rollout":
            found, expected = json.loads(out)["returns"], json.loads(answer.out)["returns"]
            np.testing.assert_allclose(found, expected, rtol=1e-3)
        elif words[-1] == "--json":
            assert out == answer.out
        else:
            np.testing.assert_allclose(np.load(there / words[-1]), np.load(words[-1]), atol=1e-4)
    assert len(calls) >= 7
