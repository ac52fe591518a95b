"""Files as chance makes them: each is read or refused in one line; nothing is imported, run or written elsewhere.

The same inputs in every run: a handful of each kind, and 11,000 in all under the marker `slow`.
"""

import contextlib
import json
import math
import os
import shutil
import struct
import sys
import threading
from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException

import checkpoints
from checkpoints.card import render
from checkpoints.catalogue import CONFIG, REFERENCE, RESULTS, WEIGHTS
from commands.evaluate import read_metrics
from commands.training import cli as train
from commands.training.complaints import complaint
from commands.training.configs import arrange
from tests import runs
from tests.runs import TINY
from zoo.errors import UserError


def counts(few, many):
    """Runs a test with a few inputs, and with many where the slow tests run."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def times(count):
    """A number of inputs: the same ones every time, however slow the machine is."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )


# what is watched


class Watch:
    """Notes what the interpreter does while it is on: writes outside a folder, programs, connections, imports."""

    def __init__(self):
        self.folder = None
        self.wrong = []
        self.asked = set()  # modules that the interpreter had to look for
        sys.addaudithook(self.note)
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        self.asked.add(name.split(".")[0])
        return None

    def note(self, event, details):
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            return
        if event == "open":
            path, _, flags = details
            if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                return
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod"):
            path = details[1] if event in ("os.symlink", "os.link") else details[0]
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "os.fork"):
            self.wrong.append((event, details))
            return
        else:
            return
        if not str(path).startswith((str(self.folder), os.devnull)):
            self.wrong.append((event, path))

    @contextlib.contextmanager
    def on(self, folder):
        self.folder, self.wrong, self.asked = folder, [], set()
        try:
            yield
        finally:
            self.folder = None
        assert self.wrong == []
        assert not self.asked & {*STRANGERS}


STRANGERS = ["attacker", "antigravity", "this", "turtledemo", "zoo_of_a_stranger"]


@pytest.fixture(scope="module")
def watch():
    watch = Watch()
    yield watch
    sys.meta_path.remove(watch)


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("fuzz") / "tiny-waves"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model folder that loads in a few milliseconds."""
    arguments = {"image_shape": [1, 4, 6], "num_classes": 3, "channels": 4, "num_features": 5}
    torch.manual_seed(0)
    state = checkpoints.build("image-classifier", arguments).state_dict()
    folder = tmp_path_factory.mktemp("fuzz") / "small"
    checkpoints.save(folder, "image-classifier", arguments, state, {"seed": 0})
    return folder


@contextlib.contextmanager
def in_one_line():
    """Lets nothing through but a success or a UserError of one line."""
    told = ""
    try:
        yield
    except UserError as error:
        told = str(error)
    assert "\n" not in told
    told.encode()


def test_the_watch_sees(watch, tmp_path):
    for act in (
        lambda: (tmp_path / "elsewhere").write_text(""),
        lambda: (tmp_path / "elsewhere").unlink(),
        lambda: os.system("true"),
        lambda: __import__("attacker"),
    ):

        def run(act=act):
            with watch.on(tmp_path / "folder"), contextlib.suppress(ImportError):
                act()

        with pytest.raises(AssertionError):
            run()
    with watch.on(tmp_path):
        (tmp_path / "inside").write_text("")


# JSON

numbers = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.sampled_from([10**6, 10**6 + 1, 10**9, 10**400, -(10**9), 2**31, 2**63, 1e308, math.inf, 1e-320]),
)
texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["eps", "v", "cosine", "linear", "digits", "image-classifier", "__class__", "os.system", "\ud800"]),
    st.sampled_from([f"{name}.Attack" for name in STRANGERS]),
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=10
)


def changed(content, depth=3):
    """`content` with some of its parts replaced, removed or added, down to a depth."""

    @st.composite
    def draw_one(draw):
        return change(draw, json.loads(content), depth)

    return draw_one()


def change(draw, value, depth):
    if depth == 0 or draw(st.integers(0, 7)) == 0:
        return draw(anything)
    if isinstance(value, dict):
        for key in draw(st.lists(st.sampled_from([*value]), max_size=2, unique=True)) if value else ():
            if draw(st.integers(0, 4)) == 0:
                del value[key]
            else:
                value[key] = change(draw, value[key], depth - 1)
        if draw(st.integers(0, 5)) == 0:
            value[draw(texts)] = draw(anything)
        return value
    if isinstance(value, list) and value and draw(st.booleans()):
        value[draw(st.integers(0, len(value) - 1))] = change(draw, value[0], depth - 1)
        return value
    return draw(anything)


def encoded(values):
    """JSON texts of values, and now and then bytes that are none."""
    whole = values.map(lambda value: json.dumps(value).encode())
    cut = st.tuples(whole, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    nested = st.tuples(st.sampled_from([b"[", b'{"a":', b'{"arguments":']), st.integers(0, 5000))
    return st.one_of(
        whole, whole, whole, whole, cut, st.binary(max_size=40), nested.map(lambda pair: pair[0] * pair[1])
    )


@counts(100, 2000)
def test_config(count, watch, folder, finished):
    original = (finished / CONFIG).read_bytes()
    accepted = 0

    @times(count)
    @given(encoded(changed(original)))
    def run(content):
        nonlocal accepted
        (folder / CONFIG).write_bytes(content)
        with watch.on(folder), in_one_line():
            checkpoints.load(str(folder))
            accepted += 1
        if accepted % 10 == 1:
            with in_one_line():
                render(folder)

    try:
        run()
    finally:
        (folder / CONFIG).write_bytes(original)
    assert 0 < accepted < count


@counts(150, 4400)
def test_results(count, watch, folder, finished):
    original = (finished / RESULTS).read_bytes()
    accepted = 0

    @times(count)
    @given(encoded(changed(original)))
    def run(content):
        nonlocal accepted
        (folder / RESULTS).write_bytes(content)
        with watch.on(folder), in_one_line():
            read_metrics(folder)
        with watch.on(folder), in_one_line():
            render(folder).encode()
            accepted += 1

    try:
        run()
    finally:
        (folder / RESULTS).write_bytes(original)
    assert 0 < accepted < count


# safetensors


@st.composite
def tensor_files(draw, content):
    """A safetensors file with changes in its header, its length, its bytes or a number alone."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    kind = draw(st.sampled_from(["header", "header", "header", "length", "bytes", "number", "cut"]))
    if kind == "header":
        name = draw(st.sampled_from(sorted(header)))
        entry = header[name]
        what = draw(st.sampled_from(["dtype", "shape", "data_offsets", "all", "name", "gone"]))
        kinds = ["F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "U64"]
        if what == "dtype":
            entry[what] = draw(st.sampled_from(kinds) | anything)
        elif what in ("shape", "data_offsets"):
            entry[what] = draw(st.lists(numbers, max_size=4) | anything)
        elif what == "all":
            header[name] = draw(anything)
        else:
            entry = header.pop(name)
            if what == "name":
                header[draw(texts)] = entry
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data
    if kind == "length":
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1) | st.integers(0, 2 * size))) + content[8:]
    if kind == "bytes":
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            changed[draw(st.integers(0, min(len(content), size + 100) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == "number":  # its lowest byte, so the file still loads
        changed = bytearray(content)
        changed[8 + size + 4 * draw(st.integers(0, len(data) // 4 - 1))] ^= draw(st.integers(0, 255))
        return bytes(changed)
    return content[: draw(st.integers(0, len(content)))]


@counts(120, 2000)
@pytest.mark.parametrize("file", [WEIGHTS, REFERENCE])
def test_weights(count, watch, small, file):
    original = (small / file).read_bytes()
    accepted = 0

    @times(count)
    @given(tensor_files(original))
    def run(content):
        nonlocal accepted
        (small / file).write_bytes(content)
        with watch.on(small), in_one_line():
            checkpoints.verify(str(small)) if file == REFERENCE else checkpoints.load(str(small))
            accepted += 1

    try:
        run()
    finally:
        (small / file).write_bytes(original)
    assert 0 < accepted < count


# YAML, as far as the command line reads it

TAGS = ["!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!binary x", "!!set {a}"]
ODD = [*TAGS, "2020-13-45", "0x", "1_0", "? a", "- 1", "&a b", "*a", "<<: 3", "%YAML 9", "\x00", "\t", "|", "> x", "'"]
lines = st.lists(st.sampled_from(ODD) | texts.filter(str.isprintable), max_size=4)
of_a_stranger = st.sampled_from(STRANGERS).map(lambda name: {"class_path": f"{name}.Attack", "init_args": {"a": 1}})


@st.composite
def configs(draw):
    """tiny.yaml with changes, a class of a stranger in a place where classes stand, or lines of odd YAML."""
    content = yaml.safe_load(Path(TINY).read_text())
    kind = draw(st.sampled_from(["changed", "changed", "class", "lines"]))
    if kind == "changed":
        content = change(draw, content, 5)
    elif kind == "class":
        where = draw(st.sampled_from(["model", "data", "logger", "callbacks", "strategy", "plugins", "profiler"]))
        place = content if where in ("model", "data") else content["trainer"]
        place[where] = draw(of_a_stranger | st.lists(of_a_stranger, min_size=1, max_size=2))
    else:
        key = draw(st.sampled_from(["", "model: ", "seed_everything: ", "trainer: {callbacks: ", "a: "]))
        return (key + "\n".join(draw(lines))).encode()
    return json.dumps(content).encode() if draw(st.booleans()) else yaml.safe_dump(content).encode()


@pytest.fixture(scope="module")
def parse():
    """What `fit` does with its arguments before anything is made from them."""
    kept = []

    def keep(self, parser, arguments):
        kept.append((self, parser))
        raise UserError("kept")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-zoo"])
        patch.setattr(train.CommandLine, "parse_arguments", keep)
        with pytest.raises(UserError, match="kept"):
            train.run("fit", [])
    (line, parser) = kept[0]

    def run(*arguments: str):
        sys.argv = ["lightning-zoo"]
        try:
            line.parse_arguments(parser, ["fit", *arrange([*arguments])])
        except (jsonargparse.ArgumentError, MisconfigurationException) as error:
            raise UserError(complaint(str(error))) from None

    return run


@counts(40, 585)
def test_yaml(count, watch, parse, tmp_path_factory):
    place = tmp_path_factory.mktemp("yaml")
    path = place / "config.yaml"
    path.write_bytes(Path(TINY).read_bytes())
    parse("--config", str(path))
    refused = 0

    @times(count)
    @given(configs())
    def run(content):
        nonlocal refused
        path.write_bytes(content)
        refused += 1
        with watch.on(place), in_one_line():
            parse("--config", str(path))
            refused -= 1

    run()
    assert 0 < refused < count


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a [1, 1]\nb: &b [*a, *a]\n"], ids=["endless", "doubling"])
def test_yaml_that_refers_to_itself(text, tmp_path, refused):
    """A few such lines stand for a list without end, or for billions of numbers."""
    (tmp_path / "config.yaml").write_text(text)
    assert "a reference" in refused("fit", "--config", tmp_path / "config.yaml", "--print_config")


@counts(4, 15)
def test_the_command_line(count, watch, tmp_path_factory, capsys):
    place = tmp_path_factory.mktemp("command")
    path = place / "config.yaml"

    @times(count)
    @given(configs())
    def run(content):
        path.write_bytes(content)
        with watch.on(place), contextlib.suppress(SystemExit):
            runs.run("fit", place / "run", "--config", path, "--print_config")
        told = capsys.readouterr().err
        assert told.count("\n") <= 1
        assert told == "" or told.startswith("error: ")

    run()
    assert {file.name for file in place.iterdir()} == {"config.yaml"}
