"""The dispatcher: help, unknown verbs, exit statuses, and what each verb imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import main as dispatcher
from commands.main import MODEL_VERBS, TRAINING_VERBS, main
from zoo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# options that the help of a verb must explain, from the design's table
OPTIONS = {
    "list": ["--json"],
    "sample": [
        "MODEL", "--num-samples", "--seed", "--output", "--labels", "--json", "--device", "--precision", "--compile",
    ],
    "evaluate": ["MODEL", "--json", "--full", "--update", "--data", "--device", "--precision", "--compile"],
    "rollout": ["MODEL", "--episodes", "--seed", "--video", "--explore", "--environment", "--env-module", "--json"],
    "export": ["CKPT", "DIR", "--json"],
    "density": ["MODEL", "--input", "--output", "--labels", "--seed", "--precision", "--json", "--device"],
    "download": ["MODEL", "--to"],
    "publish": ["MODEL", "--repo-id", "--private", "--dry-run"],
    "demo": ["--folder"],
    "figure": ["--output", "--draws", "--seed", "--json", "--device", "--precision", "--compile"],
    "fit": ["--config", "--model", "--data", "--trainer.max_epochs", "--ckpt_path", "--print_config"],
    "validate": ["--config", "--model", "--data", "--ckpt_path"],
    "test": ["--config", "--model", "--data", "--ckpt_path"],
    "predict": ["--config", "--model", "--data", "--ckpt_path"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_verb(command, arguments):
    answer = command(*arguments)
    assert answer.status == 0
    assert answer.err == ""
    for verb, text in (TRAINING_VERBS | MODEL_VERBS).items():
        assert re.search(rf"^  {verb} +{re.escape(text)}$", answer.out, re.MULTILINE)


def test_every_verb_is_covered_here():
    assert OPTIONS.keys() == TRAINING_VERBS.keys() | MODEL_VERBS.keys()
    assert all((ROOT / "commands" / f"{verb}.py").is_file() for verb in MODEL_VERBS)


@pytest.mark.parametrize("verb", OPTIONS)
def test_the_help_of_a_verb_explains_its_options(command, verb):
    answer = command(verb, "--help")
    assert answer.status == 0
    for option in OPTIONS[verb]:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", answer.out), option


@pytest.mark.parametrize("verb", ["nonsense", "", "--help-me", "x", "train", "../cli"])
def test_an_unknown_verb_lists_the_known(refused, verb):
    message = refused(verb)
    assert f"unknown verb {verb!r}" in message
    assert "sample" in message


@pytest.mark.parametrize(
    ("written", "meant"), [("smaple", "sample"), ("--list", "list"), ("rolout", "rollout"), ("fti", "fit")]
)
def test_a_misspelt_verb_is_understood(refused, written, meant):
    assert refused(written) == f"error: unknown verb {written!r}; did you mean {meant}?\n"


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_an_unknown_option_is_one_line(refused, verb):
    message = refused(verb, "--nonsense", "1")
    assert f"`lightning-zoo {verb} --help` lists the options" in message


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (UserError("what and the fix"), 2, "error: what and the fix\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_statuses(command, monkeypatch, raised, status, told):
    import commands.list

    def fail(_):
        raise raised

    monkeypatch.setattr(commands.list, "run", fail)
    assert command("list") == (status, "", told)


def test_a_fault_of_this_software_keeps_its_traceback(monkeypatch):
    import commands.list

    monkeypatch.setattr(commands.list, "describe", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_help_names_the_program_as_it_was_called(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/cli.py", "--help"])
    assert dispatcher.main() == 0
    assert capsys.readouterr().out.startswith("usage: cli.py VERB")


# in processes of their own


def python(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, **options
    )


def imported_by(*arguments) -> set[str]:
    """The modules that a command line has imported at its end."""
    code = (
        "import sys; from commands.main import main; status = main(sys.argv[1:]); "
        "print('MODULES', *sys.modules); raise SystemExit(status)"
    )
    answer = python("-c", code, *arguments)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split("MODULES ")[1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"], ["sample", "clasifier"]])
def test_light_verbs_import_nothing_heavy(arguments, tmp_path):
    if arguments[0] == "sample":  # a wrong name is told before PyTorch is imported
        code = "import sys; from commands.main import main; main(sys.argv[1:]); print('MODULES', *sys.modules)"
        answer = python("-c", code, *arguments, "--output", tmp_path / "a.png")
        modules = set(answer.stdout.split())
        assert "did you mean classifier-digits" in answer.stderr
    else:
        modules = imported_by(*arguments)
    heavy = {"torch", "lightning", "torchvision", "matplotlib", "numpy", "huggingface_hub", "sklearn", "rich", "PIL"}
    assert modules & heavy == set()
    assert "commands.main" in modules


@pytest.mark.parametrize("ending", ["png", "npy", "safetensors"])
def test_sample_needs_little_more_than_torch(tiny, tmp_path, ending):
    modules = imported_by("sample", tiny, "--steps", "2", "--num-samples", "2", "--output", tmp_path / f"a.{ending}")
    assert "torch" in modules
    assert modules & {"lightning", "torchvision", "torchmetrics", "matplotlib", "huggingface_hub", "sklearn"} == set()


def test_evaluate_loads_what_the_model_needs_and_no_more():
    """At most 25 of our files, so that a policy brings in no images and an environment no flows."""
    modules = imported_by("evaluate", "ppo-cartpole")
    ours = {name for name in modules if name.split(".")[0] in ("zoo", "checkpoints", "commands", "datamodules")}
    files = {name for name in ours if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
    assert "zoo.rl.policies" in files
    assert len(files) <= 25, sorted(files)
    assert not [name for name in modules if name.startswith("lightning_modules")]


def test_root_cli_is_the_same_door(tmp_path):
    answer = python(ROOT / "cli.py", "list", cwd=tmp_path)
    assert answer.returncode == 0
    assert "classifier-digits" in answer.stdout
    answer = python(ROOT / "cli.py", "nonsense", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: unknown verb")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list"], ["sample", "--help"]])
def test_a_closed_pipe_is_no_error(tmp_path, monkeypatch, unbuffered, arguments):
    """`lightning-zoo list | head -0`: the reader is gone before anything is written."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    code = (
        "import os, sys; from commands.main import main; "
        "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1); "
        "raise SystemExit(main(sys.argv[1:]))"
    )
    answer = python("-c", code, *arguments, cwd=tmp_path)
    assert answer.returncode == 0
    assert answer.stderr == ""


def test_sampling_loads_little_and_finds_the_model_once(tmp_path):
    code = (
        "import sys, checkpoints.locate as locate; found = []; find = locate.find\n"
        "locate.find = lambda model: found.append(model) or find(model)\n"
        "from commands.main import main; assert main(sys.argv[1:]) == 0\n"
        "ours = ('zoo', 'commands', 'checkpoints', 'lightning_modules', 'datamodules', 'configs')\n"
        "files = [m for n, m in sys.modules.items() if n.split('.')[0] in ours and m.__file__]\n"
        "print('FILES', sum(not m.__file__.endswith('__init__.py') for m in files), len(found))"
    )
    options = ("--labels", 7, "--num-samples", 2, "--steps", 2, "--output", tmp_path / "a.png")
    answer = python("-c", code, "sample", "cfg-digits", *options)
    assert answer.returncode == 0, answer.stderr
    files, found = map(int, answer.stdout.split("FILES ")[1].split())
    assert files <= 25
    assert found == 1


def test_the_help_of_a_model_explains_its_own_options(command):
    diffusion, flow = (command("sample", name, "--help").out for name in ("cfg-digits", "realnvp-moons"))
    for option in ("--sampler", "--steps", "--eta", "--spacing", "--guidance-scale", "--classifier"):
        assert option in diffusion
        assert option not in flow
    assert "--temperature" in flow
    assert "(default: 10)" in diffusion
    assert "--draws" in command("density", "nice-digits", "--help").out
