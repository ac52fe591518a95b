"""Errors of jsonargparse and Lightning about an option, shortened to one line that names it."""

import difflib
import inspect
import re
from collections.abc import Sequence

import datamodules
import lightning_modules
from zoo.errors import one_line

TYPES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null",
    "tuple": "a list", "list": "a list", "dict": "a mapping",
}  # fmt: skip
MISTYPED = re.compile(
    r"(?:Does not validate .*\s+Subtypes: .*\s+Errors:\s+)?(?P<types>(?:-? ?Expected a <class '[\w.]+'>\.?\s+)+)"
    r"(?:Given value type: .*\s+)?G(?:ot|iven) value: (?P<value>.+)"
)


def complaint(text: str, options: Sequence[str] = ()) -> str:
    """The message of jsonargparse without its list of every type that it tried.

    Args:
        options: every option of the verb, to suggest one for a misspelt option.
    """
    if mistyped := _mistyped(text):
        return mistyped
    text = one_line(text)
    if stray := re.search(r"[Uu]nrecognized arguments: (--[\w.-]+)", text):
        word = stray[1].lstrip("-")
        near = (
            difflib.get_close_matches(stray[1], options, n=2, cutoff=0.7)
            or [option for option in options if word in re.split(r"[-._]+", option) and not option.endswith("help")][:2]
        )
        return f"unknown option {stray[1]}; " + (f"did you mean {' or '.join(near)}?" if near else "see --help")
    of = re.search(r"class_path '?([\w.]+)'?", text)
    where = f" of {of[1]}" if of else ""
    if unknown := re.search(r"(?:Option|Key) '(.+?)' is not (?:accepted|expected)", text):
        names = _parameters(of[1]) if of else []
        near = difflib.get_close_matches(unknown[1], names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}" if names else "see --help"
        return f"unknown option {unknown[1]!r}{where}; {hint}"
    if missing := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [*lightning_modules.__all__, *datamodules.__all__]
        near = difflib.get_close_matches(missing[1].rsplit(".", 1)[-1], known, n=2, cutoff=0.5) or known
        return f"unknown class {missing[1]!r}; did you mean {' or '.join(near)}?"
    if denied := re.search(r"Importing '(.+?)' is not allowed", text):
        return (
            f"{denied[1]!r} may not be named in a config: only classes of this project, Lightning and torch.optim may"
        )
    if wrong := re.search(r'Parser key "(?!model"|data")([\w.]+)": (.+?)(?: Expected a <class \'NoneType\'>|$)', text):
        return f"option {wrong[1]!r}{where}: {_core(wrong[2])}"
    return _core(text)


def _mistyped(text: str) -> str:
    """The message for a value of another type than the option's, "" if `text` does not report that."""
    keys = [*re.finditer(r'Parser key "(.+?)":\s+', text)]
    if not keys or not (wrong := MISTYPED.match(text, keys[-1].end())):
        return ""
    classes = re.findall(r"class_path '([\w.]+)'", text[: keys[-1].end()])
    where = f" of {classes[-1]}" if classes else ""
    types = re.findall(r"<class '([\w.]+)'>", wrong["types"])
    return (
        f"option {keys[-1][1]!r}{where} must be {' or '.join(TYPES.get(name, name) for name in types)}, "
        f"got {wrong['value']}"
    )


def _core(text: str) -> str:
    """The reason inside jsonargparse's report on a type that may also be None."""
    inside = re.search(r"Errors: (.+?)(?: Expected a <class 'NoneType'>|$)", text)
    return inside[1] if inside else text


def _parameters(class_path: str) -> list[str]:
    """The options of a class of ours, [] for another's."""
    name = class_path.rsplit(".", 1)[-1]
    found = getattr(lightning_modules, name, None) or getattr(datamodules, name, None)
    return [*inspect.signature(found).parameters] if found else []
