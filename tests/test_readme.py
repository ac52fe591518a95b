"""What the documents say works: each command parses, the quick ones and the snippets run, the links lead on."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

import checkpoints
from commands.main import MODEL_VERBS, TRAINING_VERBS, Parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = [path for folder in checkpoints.shipped().values() if (path := folder / "README.md").is_file()]
PROGRAMS = (["python", "cli.py"], ["lightning-zoo"])


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language in a Markdown text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[list[str]]:
    """The commands that a text tells to type, as words: the lines of its bash blocks, and its inline code."""
    lines = [line for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`((?:make|python cli\.py|lightning-zoo) [^`]+)`", prose)
    return [words for line in lines for part in line.split(" && ") if (words := shlex.split(part, comments=True))]


def arguments_of(words: list[str]) -> list[str] | None:
    """The arguments of a call of this program, None if the words call another."""
    return next((words[len(program) :] for program in PROGRAMS if words[: len(program)] == program), None)


CALLS = [
    pytest.param(arguments, id=f"{path.parent.name}/{path.name}: {' '.join(arguments)}")
    for path in (*DOCUMENTS, *CARDS)
    for words in commands_in(path.read_text(encoding="utf-8"))
    if (arguments := arguments_of(words))
]
MADE = {call.values[0][2] for call in CALLS if call.values[0][0] == "export"}
# options that the README shows by themselves, as what to add to a training
OPTIONS = re.findall(r"\| `(--[^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
SNIPPETS = [
    pytest.param(block, id=f"{path.parent.name}/{path.name}")
    for path in (*DOCUMENTS, *CARDS)
    for block in blocks(path.read_text(encoding="utf-8"), "python")
]


def is_quick(arguments: list[str]) -> bool:
    """Whether a command takes seconds, and needs nothing that an earlier command would have made."""
    match arguments:
        case ["list", *_] | ["evaluate", "classifier-digits"]:
            return True
        case ["sample" | "download", model, *_]:
            return model in checkpoints.shipped()
    return False


def parsed(verb: str, arguments: list[str]) -> argparse.Namespace:
    module = importlib.import_module(f"commands.{verb}")
    parser = Parser(prog=verb)
    module.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_documents_are_read():
    verbs = [call.values[0][0] for call in CALLS]
    assert {"fit", "sample", "evaluate", "export"} <= {*verbs}
    assert any(is_quick(call.values[0]) for call in CALLS)
    assert OPTIONS
    assert SNIPPETS


def test_commands_are_found():
    text = "`make x`, `zoo`\n```bash\n# note\npip x && python cli.py list  # all\nlightning-zoo sample \\\n  a\n```\n"
    found = commands_in(text)
    assert found == [["pip", "x"], ["python", "cli.py", "list"], ["lightning-zoo", "sample", "a"], ["make", "x"]]
    assert [arguments_of(words) for words in found] == [None, ["list"], ["sample", "a"], None]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_has_the_targets(path):
    targets = re.findall(r"^([\w.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands_in(path.read_text(encoding="utf-8")):
        if words[0] == "make":
            assert words[1] in targets


@pytest.mark.parametrize("arguments", CALLS)
def test_a_command_parses(command, monkeypatch, arguments):
    verb, *rest = arguments
    monkeypatch.chdir(ROOT)
    if "--help" in rest or verb == "--help":
        assert command(*arguments).status == 0
    elif verb in TRAINING_VERBS:
        answer = command(verb, *[word for word in rest if word != "--print_config"], "--print_config")
        assert answer.status == 0, answer.err
        assert "class_path" in answer.out
    else:
        assert verb in MODEL_VERBS
        model = getattr(parsed(verb, rest), "model", "MODEL")
        assert model in MADE or model.startswith("hf://") or model.isupper() or checkpoints.find(model)


@pytest.mark.parametrize("options", OPTIONS)
def test_shown_options_exist(command, options):
    answer = command("fit", "--config", "ddpm-digits", *shlex.split(options), "--print_config")
    assert answer.status == 0, answer.err
    for option, value in re.findall(r"--(\S+) (\S+)", options):
        if option != "data":  # a class, printed as its path
            assert re.search(rf"\b{option.split('.')[-1]}:.*", answer.out), option
            assert value.strip("[]").split(",")[0] in answer.out


@pytest.mark.parametrize("arguments", [call for call in CALLS if is_quick(call.values[0])])
def test_a_quick_command_runs(command, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    answer = command(*arguments)
    assert answer.status == 0, answer.err
    assert answer.out
    if arguments[0] == "sample":
        output = parsed(*arguments[:1], arguments[1:]).output
        assert (tmp_path / output).stat().st_size > 100


# what a plain Trainer says of a short run
@pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:The number of training batches",
    "ignore:The 'train_dataloader' does not have many workers",
)
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "<snippet>", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("path", [*DOCUMENTS, *CARDS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_on(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target
