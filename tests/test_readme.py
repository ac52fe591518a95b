"""What the documents say works: each command parses, the quick ones and the snippets run, the links lead on."""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import checkpoints
from commands.main import MODEL_VERBS, TRAINING_VERBS, WITH_MODEL_OPTIONS, Parser
from commands.models import parse
from commands.training.configs import config_names

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


CALLS = {
    f"{path.parent.name}/{path.name}: {' '.join(arguments)}": arguments
    for path in (*DOCUMENTS, *CARDS)
    for words in commands_in(path.read_text(encoding="utf-8"))
    if (arguments := arguments_of(words))
}
# options that the README shows by themselves, as what to add to a training
OPTIONS = re.findall(r"\| `(--[^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
SNIPPETS = {
    f"{path.parent.name}/{path.name}-{i}": block
    for path in (*DOCUMENTS, *CARDS)
    for i, block in enumerate(blocks(path.read_text(encoding="utf-8"), "python"))
}
SHORT = {"sample": ["--num-samples", "4"], "rollout": ["--episodes", "1"]}


def option(arguments: list[str], name: str) -> str:
    """The value of an option."""
    return arguments[arguments.index(name) + 1]


def made() -> dict[str, str]:
    """Folders that the documents export -> the config of the run that they come from."""
    roots = {
        option(words, "--trainer.default_root_dir"): option(words, "--config")
        for words in CALLS.values()
        if words[0] == "fit" and "--trainer.default_root_dir" in words
    }
    return {words[2]: roots[str(Path(words[1]).parent)] for words in CALLS.values() if words[0] == "export"}


MADE = made()


def kind(text: str) -> str:
    """A command or a snippet with the class of a model in place of its name, without file names and numbers."""
    for name, folder in checkpoints.shipped().items():
        text = re.sub(rf"(?<![\w-]){name}(?![\w-])", json.loads((folder / "config.json").read_text())["model"], text)
    return re.sub(r"[a-z_-]*\.(png|npy|gif|mp4)|\d+", "", text.split("#")[0] if "\n" not in text else text)


def first_of_each(texts: dict[str, str]) -> list[str]:
    """The keys of the first text of each kind."""
    return [*{kind(text): key for key, text in reversed(texts.items())}.values()]


def is_quick(arguments: list[str]) -> bool:
    """Whether a command takes seconds, and needs nothing that an earlier command would have made."""
    if "--help" in arguments:  # has a test of its own
        return False
    match arguments:
        case ["list", *_] | ["evaluate", "classifier-digits"]:
            return True
        case ["sample" | "density" | "rollout" | "download", model, *_]:
            return model in checkpoints.shipped()
        case ["figure", "flow" | "denoising" | "interpolation" | "inversion" | "completion", model, *_]:
            return model in checkpoints.shipped()
    return False


QUICK = {key: words for key, words in CALLS.items() if is_quick(words)}
TEXTS = {key: " ".join(words) for key, words in QUICK.items()}
LONG = ("figure", "density cnf")  # half a minute each
ONE_OF_EACH = first_of_each({key: text for key, text in TEXTS.items() if not text.startswith(LONG)})


def parsed(verb: str, arguments: list[str]) -> argparse.Namespace:
    module = importlib.import_module(f"commands.{verb}")
    parser = Parser(prog=verb)
    module.add_arguments(parser)
    return parse(parser, verb, arguments) if verb in WITH_MODEL_OPTIONS else parser.parse_args(arguments)


def test_the_documents_are_read():
    assert {"fit", "sample", "evaluate", "export"} <= {words[0] for words in CALLS.values()}
    assert {"sample", "density", "rollout", "evaluate"} <= {QUICK[key][0] for key in ONE_OF_EACH}
    assert OPTIONS
    assert SNIPPETS
    assert MADE["my-digits"] == "ddpm-digits"


def test_commands_of_one_kind():
    assert kind("sample ddpm-digits --steps 5 --output a.png") == kind("sample cfg-shapes --steps 10 --output b.png")
    assert len({kind(f"sample {words}") for words in ("ddpm-digits", "ddpm-digits --steps 5", "glow-digits")}) == 3


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


@pytest.mark.parametrize("key", [key for key, words in CALLS.items() if words[0] in MODEL_VERBS])
def test_a_command_parses(monkeypatch, key):
    verb, *rest = CALLS[key]
    monkeypatch.chdir(ROOT)
    rest = [MADE.get(word, word) if verb != "export" else word for word in rest]
    if "--help" not in rest:
        model = getattr(parsed(verb, rest), "model", None) or "MODEL"  # `list` and some figures take none
        assert model.startswith("hf://") or model.isupper() or checkpoints.find(model)


TRAINING = {key: " ".join(words) for key, words in CALLS.items() if words[0] in TRAINING_VERBS}


@pytest.mark.parametrize(
    "key", first_of_each({key: re.sub(r"--config \S+", "", text) for key, text in TRAINING.items()})
)
def test_a_training_command_parses(command, key):
    answer = command(*[word for word in CALLS[key] if word != "--print_config"], "--print_config")
    assert answer.status == 0, answer.err
    assert "class_path" in answer.out


def test_training_commands_name_configs():
    assert {option(CALLS[key], "--config") for key in TRAINING} <= {*config_names()}


@pytest.mark.parametrize("key", [key for key, words in CALLS.items() if "--help" in words])
def test_help_is_printed(command, key):
    assert command(*CALLS[key]).status == 0


@pytest.mark.parametrize("options", OPTIONS)
def test_shown_options_exist(command, options):
    answer = command("fit", "--config", "ddpm-digits", *shlex.split(options), "--print_config")
    assert answer.status == 0, answer.err
    for option, value in re.findall(r"--(\S+) (\S+)", options):
        if option != "data":  # a class, printed as its path
            assert re.search(rf"\b{option.split('.')[-1]}:.*", answer.out), option
            assert value.strip("[]").split(",")[0] in answer.out


def write_pictures(folder, words):
    """The pictures that a command reads, of the size of the model's images; white below."""
    for name in ("--inpaint", "--mask", "--colour", "--enlarge", "--edit"):
        if name in words:
            config = json.loads((checkpoints.find(words[1]) / "config.json").read_text())
            _, height, width = config["arguments"]["image_shape"]
            picture = Image.new("L", (width, height))
            picture.paste(255, (0, height // 2, width, height))
            if name == "--enlarge":
                picture = picture.resize((width // 2, height // 2))
            picture.save(folder / option(words, name))
    if "--input" in words and words[0] == "density" and option(words, "--input").endswith(".npy"):
        config = json.loads((checkpoints.find(words[1]) / "config.json").read_text())
        np.save(folder / option(words, "--input"), np.full((3, *config["arguments"]["image_shape"]), -1.0, np.float32))


def run(command, folder, words):
    (folder / "docs").mkdir()
    write_pictures(folder, words)
    answer = command(*words)
    assert answer.status == 0, answer.err
    assert answer.out
    output = getattr(parsed(words[0], words[1:]), "output", None)
    assert output is None or (folder / output).stat().st_size > 100


@pytest.mark.parametrize("key", ONE_OF_EACH)
def test_a_command_of_each_kind_runs_in_short(command, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    run(command, tmp_path, CALLS[key] + SHORT.get(CALLS[key][0], []))


@pytest.mark.slow
@pytest.mark.parametrize("key", QUICK)
def test_a_quick_command_runs_as_it_is_printed(command, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    run(command, tmp_path, CALLS[key])


# what a plain Trainer says of a short run on a plain DataLoader
plain = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:The number of training batches",
    "ignore:The 'train_dataloader' does not have many workers",
)


def execute(text: str) -> None:
    exec(compile(text, "<snippet>", "exec"), {"__name__": "snippet"})


@plain
@pytest.mark.parametrize("key", first_of_each(SNIPPETS))
def test_a_snippet_of_each_kind_runs_in_short(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    execute(re.sub(r"\b(16|draws=32)\b", lambda found: found[0][:-2] + "2", SNIPPETS[key]))


@plain
@pytest.mark.slow
@pytest.mark.parametrize("key", SNIPPETS)
def test_a_snippet_runs_as_it_is_printed(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    execute(SNIPPETS[key])


@pytest.mark.parametrize("path", [*DOCUMENTS, *CARDS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_on(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


def test_the_notes_that_docstrings_cite_are_among_the_sources():
    sources = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    paths = [path for package in ("zoo", "lightning_modules") for path in (ROOT / package).rglob("*.py")]
    cited = {
        name for path in paths for name in re.findall(r"\b\d{3}_[0-9a-f]{16}\.txt", path.read_text(encoding="utf-8"))
    }
    assert len(cited) > 2
    assert all(f"| `{name}` |" in sources for name in cited)
