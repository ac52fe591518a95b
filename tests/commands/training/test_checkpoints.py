import io
import pickle
import sys

import pytest
import torch
import yaml

from tests.runs import (
    TINY,
    fit,
    read,
)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["empty", "truncated", "text", "foreign", "list", "bomb", "bomb in a checkpoint", "raw bomb", "folder"]
)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_file_that_is_no_checkpoint_is_refused_and_never_run(kind, verb, tiny_run, tmp_path, refused):
    path, good = tmp_path / "some.ckpt", (tiny_run / "last.ckpt").read_bytes()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": lambda: b"",
                "truncated": lambda: good[: len(good) // 2],
                "text": lambda: b"weights\n" * 20,
                "foreign": lambda: saved({"state_dict": {}, "epoch": 3, "pytorch-lightning_version": "2.0.0"}),
                "list": lambda: saved([1, 2]),
                "bomb": lambda: saved(Bomb(tmp_path / "harm")),
                "bomb in a checkpoint": lambda: saved(read(tiny_run / "last.ckpt") | {"x": Bomb(tmp_path / "harm")}),
                "raw bomb": lambda: pickle.dumps(Bomb(tmp_path / "harm")),
            }[kind]()
        )
    line = refused(verb, "--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--ckpt_path", path)
    assert str(path) in line
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture_or_class_is_refused(tiny_run, tmp_path, refused):
    path = tiny_run / "last.ckpt"
    options = ("--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--ckpt_path", path)
    line = refused("fit", *options, "--model.channels", 12)
    assert f"the checkpoint '{path}' is not of this model" in line
    assert f"use the config of its run, {tiny_run / 'config.yaml'}" in line
    assert "it holds a model of class 'image-diffusion'" in refused("fit", *options, "--model", "Classifier")
    # the weights would fit
    line = refused("fit", *options, "--model.parameterization", "eps")
    assert "is not of this model: its parameterization is 'v', that of this run 'eps'" in line
    assert "is not of this model" in refused("test", *options, "--model.attention_levels", "[0]")
    assert not (tmp_path / "run").exists()


def test_the_hyperparameters_of_a_checkpoint_are_not_followed(resumable, tmp_path, monkeypatch):
    # a checkpoint may name a class; Lightning's own command line would take it into the config
    (tmp_path / "attacker.py").write_text("raise SystemExit('attacked')")
    monkeypatch.syspath_prepend(tmp_path)
    content = read(resumable / "last.ckpt")
    content["hyper_parameters"] = {"_class_path": "attacker.Attack", "_instantiator": "attacker.attack", "channels": 99}
    torch.save(content, resumable / "last.ckpt")
    fit(resumable, "--ckpt_path", resumable / "last.ckpt")
    assert "attacker" not in sys.modules
    assert yaml.safe_load((resumable / "config.yaml").read_text())["model"]["init_args"]["channels"] == 8
