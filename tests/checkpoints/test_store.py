"""Model folders: what is saved comes back bit by bit, and anything else is refused in one line."""

import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import checkpoints
from checkpoints.catalogue import CONFIG, REFERENCE, WEIGHTS, describe
from checkpoints.store import LARGEST
from tests.conftest import ORIGIN, Payload
from zoo.errors import UserError

ARGUMENTS = {
    "actor": {"observation_shape": [3], "action_low": [-2, -1], "action_high": [2, 3], "hidden": [6, 5]},
    "actor-critic": {"observation_shape": [3], "num_actions": [4, 2], "hidden": [6, 5], "normalize": True},
    "image-diffusion": {"image_shape": [3, 8, 4], "channels": 4, "num_timesteps": 20, "num_classes": 5},
    "image-classifier": {"image_shape": [3, 8, 4], "num_classes": 7, "channels": 4, "num_features": 6},
    "noisy-classifier": {"image_shape": [3, 8, 4], "num_classes": 7, "channels": 4, "num_timesteps": 20},
    "nice": {"shape": [3, 8, 4], "levels": 5, "hidden": 4},
    "realnvp": {"shape": [3, 8, 4], "levels": 5, "hidden": 4, "actnorm": True, "linear": True, "coupling": "spline"},
    "cnf": {"shape": [3, 8, 4], "levels": 5, "num_classes": 5, "hidden": 4, "steps": 2},
    "glow": {"shape": [3, 8, 4], "levels": 5, "num_classes": 5, "steps": 1, "channels": 4},
}


def message_of(function, *arguments) -> str:
    """The one line of the UserError that a call must end with."""
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def randomised(name):
    model = checkpoints.build(name, ARGUMENTS[name])
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def edit(folder, **changes) -> None:
    """Changes the arguments in the config.json of a folder."""
    config = json.loads((folder / CONFIG).read_text())
    config["arguments"] |= changes
    (folder / CONFIG).write_text(json.dumps(config))


# there and back


@pytest.mark.parametrize("name", ARGUMENTS)
def test_saved_and_loaded_is_bit_equal(name, tmp_path):
    torch.manual_seed(0)
    model = randomised(name)
    folder = tmp_path / "model"
    checkpoints.save(folder, name, ARGUMENTS[name], model.state_dict(), ORIGIN)
    loaded = checkpoints.load(str(folder))
    assert not loaded.training
    trainable = [weight.requires_grad for weight in model.parameters()]
    assert [weight.requires_grad for weight in loaded.parameters()] == trainable
    assert any(trainable)
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for key, weight in loaded.state_dict().items():
        torch.testing.assert_close(weight, expected[key], rtol=0, atol=0)
    inputs = model.example(torch.Generator().manual_seed(1))
    outputs = [built(**inputs) for built in (model.eval(), loaded)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    assert checkpoints.verify(str(folder)) == 0


def test_a_folder_says_where_it_comes_from(tiny):
    config = json.loads((tiny / CONFIG).read_text())
    assert config["model"] == "image-diffusion"
    assert config["origin"]["seed"] == 7
    assert config["versions"].keys() == {"lightning-zoo", "torch", "python"}
    assert {path.name for path in tiny.iterdir()} == {CONFIG, WEIGHTS, REFERENCE}


def test_files_are_readable_by_others(tmp_path):
    umask = os.umask(0o022)
    try:
        folder = tmp_path / "model"
        name = "image-classifier"
        checkpoints.save(folder, name, ARGUMENTS[name], randomised(name).state_dict(), ORIGIN)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_weights_that_are_views_are_saved(tmp_path):
    name = "image-classifier"
    state = {key: weight.repeat(2, *[1] * (weight.ndim - 1)) for key, weight in randomised(name).state_dict().items()}
    halves = {key: weight[::2] for key, weight in state.items()}
    checkpoints.save(tmp_path / "model", name, ARGUMENTS[name], halves, ORIGIN)
    for key, weight in checkpoints.load(str(tmp_path / "model")).state_dict().items():
        torch.testing.assert_close(weight, halves[key], rtol=0, atol=0)


# strictness about weights


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("network.conv_in.bias"), "lacks weight 'network.conv_in.bias'"),
        (lambda state: state.update(extra=torch.zeros(2)), "has the unknown weight 'extra'"),
        (lambda state: state.update({"network.conv_in.bias": torch.zeros(5)}), r"of shape \(5,\), expected \(4,\)"),
        (lambda state: state.clear(), r"lacks weight '\S+' and 127 more"),
    ],
    ids=["missing", "extra", "misshapen", "none"],
)
def test_weights_must_fit(tiny, copy, change, told):
    folder = copy(tiny)
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(UserError, match=rf"model\.safetensors .*{told}"):
        checkpoints.load(str(folder))


def test_a_payload_would_run_if_it_were_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("dump", [lambda value, path: path.write_bytes(pickle.dumps(value)), torch.save])
@pytest.mark.parametrize("name", [WEIGHTS, REFERENCE, CONFIG])
def test_a_pickle_is_never_run(tiny, copy, tmp_path, name, dump):
    folder = copy(tiny)
    dump({"weight": Payload(tmp_path / "ran")}, folder / name)
    assert name in message_of(checkpoints.verify, str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [WEIGHTS, REFERENCE])
@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_tensors_are_refused(tiny, copy, name, keep):
    folder = copy(tiny)
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    assert f"{name} is not a whole safetensors file" in message_of(checkpoints.verify, str(folder))


def test_a_header_nested_without_end_is_refused(tiny, copy):
    folder = copy(tiny)
    header = b'{"a":' * 100_000
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    assert "model.safetensors is not a whole safetensors file" in message_of(checkpoints.load, str(folder))


# strictness about config.json


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        "{}",
        '{"model": "image-diffusion"}',
        '{"model": 3, "arguments": {}}',
        '{"model": ["image-diffusion"], "arguments": {}}',
        '{"model": "image-diffusion", "arguments": [1]}',
        '{"model": "os.system", "arguments": {"command": "true"}}',
        '{"model": "image-diffusion", "arguments": {}}',
        '{"model": "image-diffusion", "arguments": ' + '{"a":' * 100_000,
    ],
    ids=lambda content: content[:40],
)
def test_a_wrong_config_is_refused_by_name(tiny, copy, content):
    folder = copy(tiny)
    (folder / CONFIG).write_text(content)
    assert str(folder / CONFIG) in message_of(checkpoints.load, str(folder))


def test_an_unknown_class_lists_the_known(tiny, copy):
    folder = copy(tiny)
    (folder / CONFIG).write_text('{"model": "image-difusion", "arguments": {}}')
    assert "unknown model class 'image-difusion'; this version knows" in message_of(checkpoints.load, str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"nonsense": 1},
        {"self": 1},
        {"channels": "4"},
        {"channels": None},
        {"channels": 4.0},
        {"channels": True},
        {"channels": [4]},
        {"channels": -4},
        {"channels": float("nan")},
        {"channels": 10**30},
        {"num_timesteps": 1.5},
        {"num_timesteps": 0},
        {"num_timesteps": 10**9},
        {"num_timesteps": float("inf")},
        {"num_classes": -1},
        {"dropout": 7.0},
        {"dropout": "much"},
        {"schedule": {}},
        {"schedule": "steep"},
        {"parameterization": []},
        {"image_shape": [3, 8]},
        {"image_shape": 8},
        {"image_shape": "abc"},
        {"image_shape": [3, -8, -4]},
        {"image_shape": [3, 0, 0]},
        {"image_shape": [10**9, 8, 4]},
        {"channel_multipliers": []},
        {"channel_multipliers": [1] * 20_000},
        {"attention_levels": [9]},
    ],
    ids=lambda change: str(change)[:40],
)
def test_wrong_arguments_are_refused_by_name(tiny, copy, change):
    folder = copy(tiny)
    edit(folder, **change)
    message = message_of(checkpoints.load, str(folder))
    assert str(folder / CONFIG) in message
    assert "the arguments of 'image-diffusion' do not fit" in message


def test_a_huge_model_takes_no_memory(tiny, copy):
    """The sizes are compared with the file before anything is allocated: here a layer of 16 TB."""
    folder = copy(tiny)
    edit(folder, channels=LARGEST)
    assert "of shape (16, 4), expected (4000000, 1000000)" in message_of(checkpoints.load, str(folder))


# all or nothing


def test_an_existing_folder_is_refused_and_untouched(tiny, copy):
    folder = copy(tiny)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = {key: weight + 1 for key, weight in load_file(folder / WEIGHTS).items()}
    arguments = json.loads((folder / CONFIG).read_text())["arguments"]
    message = message_of(checkpoints.save, folder, "image-diffusion", arguments, state, ORIGIN)
    assert "exists already" in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [*folder.parent.iterdir()] == [folder]


def test_a_missing_parent_is_told(tmp_path):
    message = message_of(checkpoints.save, tmp_path / "no" / "model", "image-classifier", {}, {}, ORIGIN)
    assert f"{tmp_path / 'no'} does not exist" in message


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("broken", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_nothing_behind(tmp_path, monkeypatch, broken, written):
    name, files, write = "image-classifier", [], Path.write_bytes
    state = randomised(name).state_dict()

    def write_or_fail(path, content):
        if len(files) == written:
            raise broken
        files.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_or_fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        checkpoints.save(tmp_path / "model", name, ARGUMENTS[name], state, ORIGIN)
    if isinstance(broken, OSError):
        assert str(caught.value) == f"{tmp_path / 'model'} cannot be written: No space left on device"
    assert len(files) == written
    assert [*tmp_path.iterdir()] == []


def test_a_failing_rename_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", fail)
    name = "image-classifier"
    state = randomised(name).state_dict()
    message = message_of(checkpoints.save, tmp_path / "model", name, ARGUMENTS[name], state, ORIGIN)
    assert message.endswith("cannot be written: Permission denied")
    assert [*tmp_path.iterdir()] == []


def test_weights_that_do_not_fit_are_not_saved(tmp_path):
    name = "image-classifier"
    state = randomised(name).state_dict()
    state.popitem()
    assert "lacks weight" in message_of(checkpoints.save, tmp_path / "model", name, ARGUMENTS[name], state, ORIGIN)
    assert [*tmp_path.iterdir()] == []


# verify


def test_a_changed_weight_is_visible_to_verify(tiny, copy):
    folder = copy(tiny)
    assert checkpoints.verify(str(folder)) == 0
    state = load_file(folder / WEIGHTS)
    state["network.conv_out.bias"][0] += 0.01
    save_file(state, folder / WEIGHTS)
    assert checkpoints.verify(str(folder)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.pop("x_t"),
        lambda stored: stored.pop("output"),
        lambda stored: stored.update(x_t=torch.zeros(2, 1, 8, 4)),
        lambda stored: stored.update(output=torch.zeros(3)),
        lambda stored: stored.update(labels=torch.tensor([0, 1])),
    ],
)
def test_a_reference_of_another_model_is_told(tiny, copy, change):
    folder = copy(tiny)
    stored = load_file(folder / REFERENCE)
    change(stored)
    save_file(stored, folder / REFERENCE)
    assert "reference.safetensors is not a reference of this model" in message_of(checkpoints.verify, str(folder))


def test_a_folder_of_version_0_1_loads_and_verifies(tiny, copy):
    """Its config.json lacks what was added since; its reference calls the first input "x"."""
    folder = copy(tiny)
    config = json.loads((folder / CONFIG).read_text())
    old = {key: config[key] for key in ("model", "arguments", "versions")} | {"origin": ORIGIN}
    (folder / CONFIG).write_text(json.dumps(old))
    stored = load_file(folder / REFERENCE)
    stored["x"] = stored.pop("x_t")
    save_file(stored, folder / REFERENCE)
    assert checkpoints.verify(str(folder)) == 0
    described = describe(folder)
    assert (described.algorithm, described.protocol) == ("", "")
    assert described.data == {"class": "Digits", "levels": 17, "arguments": {}}


# fine-tuning


def test_weights_are_copied_into_a_model_of_the_same_architecture(tiny):
    arguments = json.loads((tiny / CONFIG).read_text())["arguments"] | {"dropout": 0.3}
    target = checkpoints.build("image-diffusion", arguments)
    config = {"channel_multipliers": [1, 2], "blocks_per_level": 1}
    checkpoints.load_weights(target, str(tiny), "image-diffusion", arguments | config)
    for key, weight in load_file(tiny / WEIGHTS).items():
        torch.testing.assert_close(target.state_dict()[key], weight, rtol=0, atol=0)


def test_another_class_or_architecture_is_told(tiny):
    arguments = json.loads((tiny / CONFIG).read_text())["arguments"]
    target = checkpoints.build("image-diffusion", arguments)
    told = message_of(checkpoints.load_weights, target, str(tiny), "image-classifier", arguments)
    assert "is of class 'image-diffusion', but this run trains 'image-classifier'" in told
    told = message_of(checkpoints.load_weights, target, str(tiny), "image-diffusion", arguments | {"channels": 6})
    assert "set model.channels to 4" in told


# numbers that are not finite

NAME = "image-classifier"


def broken(value):
    state = randomised(NAME).state_dict()
    key = [*state][3]
    state[key].view(-1)[-1] = value
    return key, state


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, value):
    key, state = broken(value)
    folder = tmp_path / "model"
    message = message_of(checkpoints.save, folder, NAME, ARGUMENTS[NAME], state, ORIGIN)
    assert f"weight {key!r} with entries that are not finite" in message
    assert not folder.exists()
    checkpoints.save(folder, NAME, ARGUMENTS[NAME], randomised(NAME).state_dict(), ORIGIN)
    save_file(state, folder / WEIGHTS)
    for refused in (checkpoints.load, checkpoints.verify):
        assert str(folder / WEIGHTS) in message_of(refused, str(folder))
    assert repr(key) in message_of(checkpoints.load_weights, randomised(NAME), str(folder), NAME, ARGUMENTS[NAME])


def test_a_model_whose_output_overflows_is_not_saved(tmp_path):
    model = randomised(NAME)
    state = {key: torch.full_like(weight, 1e30) for key, weight in model.state_dict().items()}
    message = message_of(checkpoints.save, tmp_path / "model", NAME, ARGUMENTS[NAME], state, ORIGIN)
    assert "the output of the model for its example is not finite" in message


def test_a_reference_that_is_not_finite_is_refused(tiny, copy):
    folder = copy(tiny)
    stored = load_file(folder / REFERENCE)
    save_file(stored | {"output": stored["output"] * float("nan")}, folder / REFERENCE)
    assert "is not a reference of this model: its output is not finite" in message_of(checkpoints.verify, str(folder))


def test_loading_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    checkpoints.load("realnvp-moons")
    assert torch.equal(torch.get_rng_state(), state)
