"""The wheel holds the packages, the configs and the models, nothing else, and works away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import checkpoints
from commands.main import MODEL_VERBS
from commands.policies import load_policy
from datamodules.experience.collector import play
from datamodules.experience.environments import make

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"zoo", "checkpoints", "lightning_modules", "datamodules", "commands", "configs", "lightning_zoo"}
NOT_SOURCE = (".git", ".venv", "runs", "data", "build", "dist", "*.egg-info", ".*_cache")
# runs a command line and then says where its modules came from
CALL = """
import sys
from commands.main import main
status = main(sys.argv[1:])
import checkpoints, configs, zoo
for module in list(sys.modules.values()):
    name = module.__name__.split(".")[0]
    if name in ("zoo", "checkpoints", "lightning_modules", "datamodules", "commands", "configs"):
        print("FROM", module.__file__ or next(iter(module.__path__)), file=sys.stderr)
raise SystemExit(status)
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


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Calls the command line of the unpacked wheel in an empty folder: installed(argument, ...) -> (folder, answer)."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    folder = tmp_path_factory.mktemp("elsewhere")

    def call(*arguments):
        environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
        answer = subprocess.run(
            [sys.executable, "-c", CALL, *map(str, arguments)],
            capture_output=True, text=True, check=False, cwd=folder, env=environment,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        modules = [Path(line.removeprefix("FROM ")) for line in answer.stderr.splitlines() if line.startswith("FROM ")]
        assert len(modules) > 5
        assert all(unpacked in module.parents for module in modules), modules
        return folder, answer.stdout

    return call


def test_it_holds_the_packages_the_configs_and_the_models_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    python = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.yaml")}
    models = {str(path.relative_to(ROOT)) for folder in checkpoints.shipped().values() for path in folder.iterdir()}
    assert names == python | configs | models | {"zoo/py.typed"}
    assert not any(name.startswith(("tests", "cli", "benchmarks", "docs")) for name in names)


def test_it_has_the_command_the_licence_and_the_readme(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        text = {name.split(".dist-info/")[1]: archive.read(name).decode() for name in names}
    assert "lightning-zoo = commands.main:main" in text["entry_points.txt"]
    assert set(text["top_level.txt"].split()) == PACKAGES
    assert "Apache License" in text["licenses/LICENSE"]
    assert "# lightning-zoo" in text["METADATA"]
    assert "Requires-Dist: lightning>=2.6.6" in text["METADATA"]


def test_list_works_elsewhere(installed):
    _, out = installed("list", "--json")
    assert [row["name"] for row in json.loads(out)] == [*checkpoints.shipped()]


def test_help_works_elsewhere(installed):
    _, out = installed("--help")
    assert all(verb in out for verb in MODEL_VERBS)


@pytest.mark.parametrize("name", checkpoints.shipped())
def test_the_models_work_elsewhere(installed, name):
    """A model draws what it draws here, a policy plays what it plays here; a classifier passes its evaluation."""
    model = checkpoints.load(name)
    kind = json.loads((checkpoints.shipped()[name] / "config.json").read_text())["model"]
    if kind in ("actor", "actor-critic"):
        _, out = installed("rollout", name, "--episodes", 1, "--seed", 1, "--json")
        _, environment, arguments = load_policy(name, "cpu", None)
        played = play(model, lambda: make(environment, arguments), [1])
        np.testing.assert_allclose(json.loads(out)["returns"], played.returns.tolist(), rtol=1e-3)
    elif "classifier" in kind:
        _, out = installed("evaluate", name, "--json")
        assert json.loads(out)["name"] == name
    else:
        steps: dict[str, int] = {"steps": 2} if kind == "image-diffusion" else {}
        words = [str(word) for key, value in steps.items() for word in (f"--{key}", value)]
        folder, _ = installed("sample", name, "--num-samples", 3, *words, "--seed", 1, "--output", "a.npy")
        expected = model.sample(3, **steps, generator=torch.Generator().manual_seed(1))
        np.testing.assert_allclose(np.load(folder / "a.npy"), expected.numpy(), atol=1e-4)
