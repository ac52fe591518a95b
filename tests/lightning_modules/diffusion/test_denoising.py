"""The fast path of a fit: bfloat16 where the hardware has it, a compiled network where the run is long."""

import pytest
import torch
import yaml

import commands.options
import commands.training.cli
import lightning_modules.diffusion.common
from lightning_modules.diffusion.common import compile_if_long
from lightning_modules.diffusion.ddpm import DDPM
from tests.runs import TINY


class Run:
    def __init__(self, steps):
        self.estimated_stepping_batches = steps


def compiled(monkeypatch, steps, choice=None, compiler="/usr/bin/c++"):
    """Whether a fit of so many steps compiles."""
    monkeypatch.setattr(lightning_modules.diffusion.common.shutil, "which", lambda _: compiler)
    module = DDPM(image_shape=(1, 8, 8), channels=4, compile=choice)
    asked = []
    monkeypatch.setattr(module.model.network, "compile", lambda: asked.append(True))
    monkeypatch.setattr(DDPM, "trainer", Run(steps))
    compile_if_long(module)
    return bool(asked)


def test_long_runs_are_compiled_where_there_is_a_compiler(monkeypatch):
    assert compiled(monkeypatch, 5000)
    assert compiled(monkeypatch, float("inf"))
    assert not compiled(monkeypatch, 4999)
    assert not compiled(monkeypatch, 5000, compiler=None)
    assert not compiled(monkeypatch, 5000, choice=False)


@pytest.mark.parametrize("has", [True, False])
def test_precision_is_chosen_by_the_hardware_and_recorded(monkeypatch, tmp_path, command, has):
    monkeypatch.setattr(commands.training.cli, "has_bfloat16", lambda _: has)
    options = ("--config", TINY, "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0)
    for name, given, expected in (("auto", ("null",), "bf16-mixed" if has else None), ("own", ("32-true",), "32-true")):
        chosen = [part for value in given for part in ("--trainer.precision", value)]
        answer = command("fit", *options, "--trainer.default_root_dir", tmp_path / name, *chosen)
        assert answer.status == 0
        assert f"precision {expected or '32-true'}," in answer.err
        written = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert written["trainer"]["precision"] == expected


def test_bfloat16_needs_its_own_units(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has: has)
        assert commands.options.has_bfloat16("cpu") is has
        assert commands.options.has_bfloat16("auto") is has
        assert commands.options.has_bfloat16("tpu") is False
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert commands.options.has_bfloat16("cpu") is False
