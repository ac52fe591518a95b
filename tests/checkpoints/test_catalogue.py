"""Names and folders, without PyTorch."""

import json

import pytest
from safetensors.torch import load_file

import checkpoints
from checkpoints.catalogue import CONFIG, REFERENCE, WEIGHTS, describe, read_json, shipped
from checkpoints.locate import find
from checkpoints.tasks import TASKS
from zoo.errors import UserError


def test_shipped_models_are_sorted_folders_with_a_config():
    models = shipped()
    assert "classifier-digits" in models
    assert [*models] == sorted(models)
    assert all((folder / CONFIG).is_file() and folder.name == name for name, folder in models.items())


def test_a_shipped_name_and_a_path_are_found(tiny, monkeypatch):
    assert find("classifier-digits") == shipped()["classifier-digits"]
    assert find(str(tiny)) == tiny
    monkeypatch.chdir(tiny)
    assert find(".").resolve() == tiny


@pytest.mark.parametrize("name", ["clasifier-digits", "classifier_digits", "classifier"])
def test_an_unknown_name_suggests_the_nearest(name):
    with pytest.raises(UserError, match=rf"unknown model '{name}'.*did you mean .*classifier-digits"):
        find(name)


@pytest.mark.parametrize("name", ["zzzz", "no/such/folder", "a" * 5000, "a\nb"])
def test_a_name_like_no_other_lists_what_ships(name):
    with pytest.raises(UserError, match="classifier-digits") as caught:
        find(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_folder_that_lacks_a_file_is_told(tiny, copy, missing):
    folder = copy(tiny)
    (folder / missing).unlink()
    with pytest.raises(UserError, match=f"{missing} is missing"):
        find(str(folder))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"3",
        b"\xff\xfe\x00",
        b'{"a": ' + b"9" * 5000 + b"}",  # more digits than Python converts
        b'{"a": ' * 100_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["empty", "cut", "list", "number", "not text", "digits", "deep objects", "deep lists"],
)
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def as_of_old(folder):
    """Makes the config.json of a copy of a shipped model what version 0.1 wrote."""
    config = read_json(folder / CONFIG)
    arguments = config.pop("data")["arguments"]
    known = {"Digits": "digits", "Shapes": "shapes"}.get(read_json(folder / CONFIG)["data"]["class"])
    config["origin"]["data"] = known or arguments.get("name") or arguments["environment"]
    if "environment" in arguments:
        config["origin"]["environment_arguments"] = arguments["environment_arguments"]
    for key in ("algorithm", "paper", "protocol", "license"):
        config.pop(key, None)
    (folder / CONFIG).write_text(json.dumps(config))


OF_OLD = ("Digits", "Shapes", "Densities", "Experience", "Replay")  # the data that version 0.1 could name


def could_be_old(name):
    described = describe(shipped()[name])
    return described.data["class"] in OF_OLD and described.model not in ("gsn", "vae")


@pytest.mark.parametrize("name", [name for name in shipped() if could_be_old(name)])
def test_a_folder_of_version_0_1_has_the_same_meaning(name, copy):
    folder = copy(shipped()[name])
    now = describe(folder)
    as_of_old(folder)
    then = describe(folder)
    assert (then.model, then.task, then.arguments) == (now.model, now.task, now.arguments)
    assert (then.protocol or TASKS[then.task].protocols[0]) == now.protocol
    same = ("levels",) if now.task != "policy" else ()
    assert all(then.data.get(key) == now.data.get(key) for key in same)
    for key in ("environment", "environment_arguments", "name"):
        assert then.data["arguments"].get(key) == now.data["arguments"].get(key)


@pytest.mark.parametrize("name", ["noisy-classifier-digits", "ppo-cartpole", "realnvp-moons"])
def test_a_folder_of_version_0_1_loads_verifies_and_evaluates(name, copy, command):
    """Its reference file names the inputs x, t, labels and actions."""
    folder = copy(shipped()[name])
    as_of_old(folder)
    stored = load_file(folder / REFERENCE)
    assert stored.keys() <= {"x", "t", "labels", "actions", "output"}
    assert checkpoints.verify(str(folder)) <= 1e-4 + 1e-3 * stored["output"].abs().max()
    if name == "ppo-cartpole":
        assert command("evaluate", folder).status == 0


def test_an_object_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"a": [1, "é"]}))
    assert read_json(path) == {"a": [1, "é"]}


def test_the_package_offers_what_it_says():
    assert {name for name in checkpoints.__all__ if callable(getattr(checkpoints, name))} == {*checkpoints.__all__}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = checkpoints.nonsense
