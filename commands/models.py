"""What a verb asks of a model: whether it can do that, and which options of its own it brings.

These options are the parameters of the model's method. Types come from the annotations, help from the `Args:` section
of the docstring, and a default stays where it is, in the signature: only what the user wrote is passed on.
"""

import argparse
import difflib
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from checkpoints.catalogue import PREFIX, Description, describe, shipped
from checkpoints.locate import find
from checkpoints.table import class_of
from checkpoints.tasks import TASKS
from commands.options import KNOWN, number, whole
from zoo.errors import UserError

METHODS = {"sample": "sample", "density": "log_likelihood", "rollout": "act"}  # verb -> the method that it needs
NEEDS = {verb: (method,) for verb, method in METHODS.items()} | {"figure": ("sample", "state_values")}
# parameters that a verb fills in, from its own options or from config.json
FILLED = ("self", "labels", "generator", "levels")
READERS: dict[Any, Callable[[str], Any]] = {int: whole, float: number, str: str}
MODEL: dict[str, Any] = {"metavar": "MODEL", "help": "a shipped name, hf://owner/repo[@revision], or a model folder"}


class Option(NamedTuple):
    """A parameter as an option of the command line.

    Attributes:
        name: of the parameter.
        settings: arguments of argparse's `add_argument`.
        convert: from what argparse read to what the method takes.
    """

    name: str
    settings: dict[str, Any]
    convert: Callable[[Any], Any]


class Turns(tuple[float, ...]):
    """Values of a parameter `float | Tensor`: one for all samples, or several in turn."""


def flag(name: str) -> str:
    """guidance_scale -> --guidance-scale"""
    return "--" + name.replace("_", "-")


def parse(parser: argparse.ArgumentParser, verb: str, words: list[str]) -> argparse.Namespace:
    """The options of a verb, and those of the model that the words name.

    Args:
        parser: knows the verb's own options, but not MODEL.
        verb: a key of METHODS.

    Returns:
        A namespace with `model`, as the user wrote it; `described`, what its config.json says; `own`, the model's
        options that were given, by the names of its parameters; and `method`, whose parameters they are.

    Raises:
        UserError: if there is no such model, it cannot do what the verb does, or it lacks an option.
    """
    wants_help = not {"-h", "--help"}.isdisjoint(words)
    general, rest = parser.parse_known_args([word for word in words if word not in ("-h", "--help")])
    name = _model_word(rest)
    if name is None:
        if not wants_help:
            parser.error("the following arguments are required: MODEL")
        parser.add_argument("model", **MODEL)
        parser.epilog = f"Each model brings options of its own: `{parser.prog} MODEL --help` explains them."
        parser.print_help()
        raise SystemExit(0)
    described = describe(find(name))
    require(described, verb, name)
    method = getattr(class_of(described.model), METHODS[verb])
    options = [option for option in options_of(method) if option.name not in vars(general)]
    parser.add_argument("model", **MODEL)
    group = parser.add_argument_group(f"options of {name}")
    for option in options:
        group.add_argument(flag(option.name), default=argparse.SUPPRESS, **option.settings)
    args, unknown = parser.parse_known_args(words)
    _refuse(parser, name, [flag(option.name) for option in options], unknown)
    args.described, args.method = described, method
    args.own = {option.name: option.convert(getattr(args, option.name)) for option in options if option.name in args}
    return args


def require(described: Description, verb: str, name: str) -> None:
    """Raises a UserError that names the verbs for a model, unless `verb` is one of them."""
    task, kind = TASKS[described.task], class_of(described.model)
    able = [other for other in task.verbs if other not in NEEDS or any(hasattr(kind, need) for need in NEEDS[other])]
    if verb in able:
        return
    use = " or ".join([", ".join(able[:-1]), able[-1]] if len(able) > 1 else able)
    raise UserError(f"{name!r} is {task.noun}: use {use}")


def options_of(method: Callable[..., Any]) -> list[Option]:
    """The options for the parameters of a method that have a default: plain values, the name of a MODEL, files."""
    texts = documented(method)
    found = []
    for parameter in inspect.signature(method, eval_str=True).parameters.values():
        if parameter.name in FILLED or parameter.default is parameter.empty:
            continue
        if parameter.name in KNOWN:  # which `commands.known.read` turns into the value of the parameter
            found += [Option(name, settings, settings["type"]) for name, settings in KNOWN[parameter.name].items()]
            continue
        if parameter.name == "classifier":
            option = Option(parameter.name, {"metavar": "MODEL"}, str)
        elif (option := _plain(parameter.name, parameter.annotation)) is None:  # type: ignore[assignment]
            continue
        default = parameter.default
        shown = "" if default is None or default is False else f" (default: {_text(default)})"
        help_text = (texts.get(parameter.name, "") + shown).strip().replace("%", "%%")
        found.append(option._replace(settings={**option.settings, "help": help_text}))
    return found


def documented(method: Callable[..., Any]) -> dict[str, str]:
    """{parameter: its text in the `Args:` section of the docstring}, each in one line."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", (inspect.getdoc(method) or "") + "\n", re.MULTILINE)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        entry = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        names = entry[1].split(", ") if entry else names
        for name in names:
            texts[name] = f"{texts.get(name, '')} {entry[2] if entry else line.strip()}".strip()
    return {name: text.replace("`", "").removesuffix(".") for name, text in texts.items()}


def option_values(args: argparse.Namespace) -> dict[str, Any]:
    """All parameters of the model's method that have a value: as given, or by default."""
    parameters = inspect.signature(args.method).parameters.values()
    return {option.name: option.default for option in parameters if option.default is not option.empty} | args.own


@contextmanager
def library_messages(args: argparse.Namespace) -> Iterator[None]:
    """Lets mistakes that the model's method finds speak of options: guidance_scale becomes --guidance-scale."""
    try:
        yield
    except UserError as error:
        names = ["labels", *inspect.signature(args.method).parameters]
        raise UserError(in_options(str(error), names)) from None


def in_options(message: str, names: list[str]) -> str:
    """The message with options for names. One of a single word is a word of the language too, unless it comes first."""
    for name in names:
        option = "--num-samples" if name == "n" else flag(name)
        message = re.sub(rf"\b{name}\b" if "_" in name else rf"^{name}\b", option, message)
    return message


def _plain(name: str, annotation: Any) -> Option | None:
    """The option of a plain annotation; None for what the command line cannot say, as a tensor or a function."""
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [kind for kind in (get_args(annotation) if union else (annotation,)) if kind is not type(None)]
    if len(kinds) == 2 and float in kinds and kinds[kinds[0] is float].__name__ == "Tensor":
        return Option(name, {"type": number, "nargs": "+", "metavar": "X"}, Turns)
    if len(kinds) != 1:
        return None
    kind, inside = get_origin(kinds[0]) or kinds[0], get_args(kinds[0])
    if kind is bool:
        return Option(name, {"action": argparse.BooleanOptionalAction}, bool)
    if kind is Literal:
        return Option(name, {"type": type(inside[0]), "choices": inside}, type(inside[0]))
    if kind in (tuple, list) and inside and inside[0] in READERS:
        count = "+" if kind is list or inside[-1] is Ellipsis else len(inside)
        return Option(name, {"type": READERS[inside[0]], "nargs": count, "metavar": "X"}, kind)
    if kind in READERS:
        return Option(name, {"type": READERS[kind], "metavar": {int: "N", float: "X", str: "TEXT"}[kind]}, kind)
    return None


def _model_word(rest: list[str]) -> str | None:
    """The MODEL among what the verb's own options leave, where the model's options stand too, with their values."""
    after_option = {i + 1 for i, word in enumerate(rest) if word.startswith("--") and "=" not in word}
    places = [i for i, word in enumerate(rest) if not word.startswith("-")]
    there = [i for i in places if rest[i].startswith(PREFIX) or rest[i] in shipped() or os.path.isdir(rest[i])]
    free = [i for i in places if i not in after_option]
    chosen = next(iter([*(i for i in free if i in there), *there, *free]), None)
    return None if chosen is None else rest[chosen]


def _refuse(parser: argparse.ArgumentParser, name: str, flags: list[str], unknown: list[str]) -> None:
    wrong = next((word.partition("=")[0] for word in unknown if word.startswith("--")), None)
    if wrong is not None:
        near = difflib.get_close_matches(wrong, [*flags, *parser._option_string_actions], n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(flags) or 'none'}"
        raise UserError(f"{name!r} has no option {wrong}; {hint} (`{parser.prog} {name} --help` explains them)")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")


def _text(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple | list) else f"{default}"
