"""`export`: a training checkpoint becomes a model folder with the averaged weights, and nothing else gets in."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import checkpoints
from checkpoints.catalogue import CONFIG, REFERENCE, WEIGHTS, read_json
from checkpoints.origin import commit
from commands.main import main
from commands.training.cli import CommandLine
from tests.conftest import Payload

SMALL = {
    "ddpm-digits": {"--model.channels": 8, "--model.num_timesteps": 20},
    "classifier-digits": {"--model.channels": 8},
}
SHORT = {
    "--data.batch_size": 5,
    "--data.batches_per_epoch": 4,
    "--trainer.max_epochs": 2,
    "--trainer.limit_val_batches": 1,
    "--trainer.log_every_n_steps": 1,
    "--trainer.accelerator": "cpu",
    "--trainer.enable_progress_bar": "false",
}


class Trained(NamedTuple):
    config: str
    checkpoint: Path
    module: Any  # the LightningModule at the end of its training, when it has the averaged weights
    exported: Path


@pytest.fixture(scope="module", params=SMALL)
def trained(request, tmp_path_factory):
    """A real run through the command line, and its export."""
    root, modules = tmp_path_factory.mktemp("export"), []
    with pytest.MonkeyPatch.context() as patch:
        fit = CommandLine.fit

        def keep(cli, model, **arguments):
            modules.append(model)
            return fit(cli, model, **arguments)

        patch.setattr(CommandLine, "fit", keep)
        patch.setattr(sys, "argv", ["lightning-zoo"])
        options = SMALL[request.param] | SHORT | {"--trainer.default_root_dir": root / "run"}
        words = [str(word) for pair in options.items() for word in pair]
        assert main(["fit", "--config", request.param, *words]) == 0
        assert main(["export", str(root / "run" / "last.ckpt"), str(root / "model")]) == 0
    return Trained(request.param, root / "run" / "last.ckpt", modules[0].eval(), root / "model")


def test_the_folder_holds_the_averaged_weights_bit_by_bit(trained):
    loaded = checkpoints.load(str(trained.exported))
    expected = trained.module.model.state_dict()
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, rtol=0, atol=0)
    content = torch.load(trained.checkpoint, weights_only=True)
    raw = content["current_model_state"]
    assert any(not torch.equal(state[name], raw[f"model.{name}"]) for name in state), "the raw ones are others"


def test_outputs_are_bit_equal(trained):
    loaded = checkpoints.load(str(trained.exported))
    x = torch.randn(5, 1, 8, 8)
    with torch.inference_mode():
        if trained.config == "classifier-digits":
            torch.testing.assert_close(loaded(x), trained.module.model(x), rtol=0, atol=0)
            return
        t = torch.arange(5) + 3
        torch.testing.assert_close(loaded(x, t), trained.module.model(x, t), rtol=0, atol=0)
    drawn = [
        model.sample(3, sampler="ddpm", steps=20, generator=torch.Generator().manual_seed(2))
        for model in (loaded, trained.module.model)
    ]
    torch.testing.assert_close(*drawn, rtol=0, atol=0)


def test_the_folder_is_complete(trained):
    assert {path.name for path in trained.exported.iterdir()} == {CONFIG, WEIGHTS, REFERENCE, "train.yaml"}
    assert checkpoints.verify(str(trained.exported)) == 0
    config = read_json(trained.exported / CONFIG)
    origin = config["origin"]
    assert origin["seed"] == 0
    assert origin["steps"] == 8
    assert origin["commit"].removesuffix("+") == commit().removesuffix("+")
    assert origin["versions"] == config["versions"]
    assert config["arguments"] == trained.module.arguments
    assert config["algorithm"] == type(trained.module).__name__
    assert config["data"]["class"] == "Digits"
    assert config["data"]["arguments"]["batch_size"] == 5
    assert not any(name.startswith("_") for name in config["data"]["arguments"]), "the command line's own"
    run = (trained.checkpoint.parent / "config.yaml").read_text()
    assert (trained.exported / "train.yaml").read_text() == run


def test_the_resolved_config_is_a_config(command, trained):
    answer = command("fit", "--config", trained.exported / "train.yaml", "--print_config")
    assert answer.status == 0, answer.err
    assert "channels: 8" in answer.out


def test_every_verb_takes_the_folder(command, trained, tmp_path):
    answer = command("evaluate", trained.exported)
    assert "results.json does not exist" in answer.err  # it has no card yet
    answer = command("sample", trained.exported, "--steps", 2, "--num-samples", 2, "--output", tmp_path / "a.png")
    assert answer.status == (0 if trained.config == "ddpm-digits" else 2)


def test_json_answer(command, trained, tmp_path):
    answer = command("export", trained.checkpoint, tmp_path / "model", "--json")
    assert json.loads(answer.out) == {"output": str(tmp_path / "model")}
    assert answer.err == ""


# what is refused


def test_an_existing_folder_is_untouched(refused, trained, tmp_path):
    (tmp_path / "model").mkdir()
    assert "exists already" in refused("export", trained.checkpoint, tmp_path / "model")
    assert [*(tmp_path / "model").iterdir()] == []


def test_a_missing_parent_is_told(refused, trained, tmp_path):
    assert f"{tmp_path / 'no'} does not exist" in refused("export", trained.checkpoint, tmp_path / "no" / "model")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(refused, trained, tmp_path, kept):
    content = trained.checkpoint.read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert str(path) in refused("export", path, tmp_path / "model")
    assert [*tmp_path.iterdir()] == [path]


def whole(**changes) -> dict:
    """A checkpoint of an untrained classifier, with changes."""
    arguments = {"image_shape": [1, 8, 8], "num_classes": 10, "channels": 4}
    state = checkpoints.build("image-classifier", arguments).state_dict()
    content = {
        "model": "image-classifier",
        "arguments": arguments,
        "state_dict": {f"model.{name}": weight for name, weight in state.items()},
        "origin": {"seed": 0},
        "global_step": 1,
    }
    return content | changes


def test_the_checkpoint_that_the_next_tests_change_is_right(command, tmp_path):
    torch.save(whole(), tmp_path / "a.ckpt")
    assert command("export", tmp_path / "a.ckpt", tmp_path / "model").status == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda: {"state_dict": {}}, "is not a checkpoint of this project: it lacks one of model"),
        (lambda: [1, 2], "is not a checkpoint of this project"),
        (lambda: torch.zeros(3), "is not a checkpoint of this project"),
        (lambda: whole(model="image-nonsense"), "unknown model class 'image-nonsense'"),
        (lambda: whole(arguments={}), "the arguments of 'image-classifier' do not fit"),
        (lambda: whole(arguments={"image_shape": [1, 8, 8], "num_classes": 10**12}), "num_classes is beyond"),
        (lambda: whole(state_dict={}), "lacks weight"),
        (lambda: whole(state_dict=whole()["state_dict"] | {"model.more": torch.zeros(1)}), "has the unknown weight"),
    ],
)
def test_a_foreign_checkpoint_is_refused(refused, tmp_path, content, told):
    path = tmp_path / "foreign.ckpt"
    torch.save(content(), path)
    assert told in refused("export", path, tmp_path / "model")
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("content", [b"some text", b"PK\3\4", b"\x80\x04."], ids=["text", "zip", "pickle"])
def test_a_file_of_another_kind_is_refused(refused, tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    assert str(path) in refused("export", path, tmp_path / "model")
    assert [*tmp_path.iterdir()] == [path]


def test_no_checkpoint_at_all_is_told(refused, tmp_path):
    assert "does not exist" in refused("export", tmp_path / "no.ckpt", tmp_path / "model")
    assert "is a folder: name a checkpoint, as" in refused("export", tmp_path, tmp_path / "model")
    assert "CKPT, DIR" in refused("export")


@pytest.mark.parametrize("where", ["state_dict", "origin", "hyper_parameters"])
def test_a_payload_is_never_run(refused, tmp_path, where):
    path = tmp_path / "payload.ckpt"
    torch.save(whole(**{where: {"model.weight": Payload(tmp_path / "ran")}}), path)
    assert f"{path} is refused" in refused("export", path, tmp_path / "model")
    assert [*tmp_path.iterdir()] == [path]
