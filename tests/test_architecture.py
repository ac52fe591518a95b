"""The rules of the house, read from the source: which package may import which, and what none may do."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints.table import MODELS, class_of

ROOT = Path(__file__).resolve().parent.parent
# who may import whom, of ours
ARROWS = {
    "zoo": set(),
    "checkpoints": {"zoo"},
    "lightning_modules": {"zoo", "checkpoints"},
    "datamodules": {"zoo"},
    "configs": set(),
    "commands": {"zoo", "checkpoints", "lightning_modules", "datamodules", "configs"},
    "lightning_zoo": {"zoo", "checkpoints", "commands"},
    "cli": {"commands"},
}
OURS = {*ARROWS, "tests", "benchmarks"}
PACKAGES = [name for name in ARROWS if name != "cli"]
# what else a package may not import: each knows its own trade only
BARRED = {
    "lightning_modules": {"gymnasium", "torchvision", "sklearn", "argparse", "huggingface_hub"},
    "datamodules": {"safetensors", "huggingface_hub", "argparse"},
    "checkpoints": {"lightning", "torchvision", "torchmetrics", "gymnasium", "matplotlib", "sklearn", "argparse"},
    "cli": {"torch", "lightning"},
}
ZOO_MAY = {"torch", "torchmetrics", "numpy", "torchdiffeq", "scipy"}
FILES_AND_NETWORK = {
    "os", "io", "pathlib", "shutil", "tempfile", "glob", "json", "csv", "pickle", "socket", "urllib", "http", "ssl",
    "subprocess", "sqlite3", "shelve", "importlib",
}  # fmt: skip
MAX_LINES = 300


def imported(source: str, package: str) -> set[str]:
    """Top-level names that a source imports, wherever the import stands; a relative one means the package itself."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(package if node.level else node.module.split(".")[0])
    return names


def wrong_imports(source: str, package: str) -> set[str]:
    """The imports of a source that the package may not have."""
    names = imported(source, package) - {package}
    wrong = (names & OURS) - ARROWS[package] | names & BARRED.get(package, set())
    if package == "zoo":
        wrong |= names - ZOO_MAY - sys.stdlib_module_names | names & FILES_AND_NETWORK
    return wrong


def edges(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which of the files import which, wherever the import stands, but for what type checkers alone read.

    `from package import name` is an import of the file of that name if there is one, else of the package.
    """
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    found: dict[str, set[str]] = {}
    for path, source in sources.items():
        named = set()
        for node in _run(ast.parse(source)):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    file = f"{node.module}.{alias.name}"
                    named.add(file if file in modules else node.module)
        found[path] = {modules[name] for name in named if name in modules} - {path}
    return found


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree without those below `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run(node)


def circles(sources: dict[str, str]) -> list[list[str]]:
    """The sets of files that import each other, at once or by way of others."""
    graph = edges(sources)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reach = {path: reached(path) for path in graph}
    together = {tuple(sorted({path} | {other for other in reach[path] if path in reach[other]})) for path in graph}
    return sorted([*group] for group in together if len(group) > 1)


def asks_for_a_class(source: str, names: set[str]) -> list[str]:
    """Where a source asks which model class something is, instead of what it can do."""
    asked = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            asked += [ast.unparse(kind) for kind in kinds if ast.unparse(kind).split(".")[-1] in names]
        if isinstance(node, ast.Compare):
            constants = [entry.value for entry in ast.walk(node) if isinstance(entry, ast.Constant)]
            asked += [text for text in constants if isinstance(text, str) and text in names]
    return asked


def wrong_calls(source: str) -> list[str]:
    """Calls that run or unpickle what a file says."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in ("eval", "exec", "__import__", "pickle.load", "pickle.loads", "os.system"):
            wrong.append(called)
        if called == "torch.load" and options.get("weights_only") != "True":
            wrong.append(called)
        if options.get("allow_pickle") == "True" or options.get("shell") == "True":
            wrong.append(called)
    return wrong


def swallowing(source: str) -> list[str]:
    """Public classes whose constructor takes **anything, and so a misspelt name."""
    return [
        owner.name
        for owner in ast.walk(ast.parse(source))
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_")
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__" and method.args.kwarg
    ]


SOURCES = {
    str(path.relative_to(ROOT)): (path.read_text(encoding="utf-8"), package)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
SOURCES["cli.py"] = ((ROOT / "cli.py").read_text(encoding="utf-8"), "cli")
every_source = pytest.mark.parametrize("name", SOURCES)


def test_every_package_is_read():
    assert {package for _, package in SOURCES.values()} == {*ARROWS}
    found = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert found - {"tests", "benchmarks", "build"} == {*PACKAGES}, "a new package needs its arrows"


@every_source
def test_imports_point_down_only(name):
    source, package = SOURCES[name]
    assert wrong_imports(source, package) == set()


def test_no_files_import_each_other():
    assert circles({name: source for name, (source, _) in SOURCES.items()}) == []


@every_source
def test_verbs_and_cards_ask_what_a_model_can_do(name):
    """The one exception reads an old config.json, which does not say how its model is measured."""
    source, package = SOURCES[name]
    names = {*MODELS, *(class_of(model).__name__ for model in MODELS)}
    if package in ("commands", "checkpoints", "lightning_zoo") and name not in (
        "checkpoints/catalogue.py",
        "commands/figure.py",
    ):
        assert asks_for_a_class(source, names) == []


@every_source
def test_nothing_runs_what_a_file_says(name):
    assert wrong_calls(SOURCES[name][0]) == []


@every_source
def test_constructors_refuse_misspelt_names(name):
    assert swallowing(SOURCES[name][0]) == []


@every_source
def test_files_are_short(name):
    assert len(SOURCES[name][0].splitlines()) <= MAX_LINES


def test_only_the_dispatcher_imports_by_name():
    users = {name for name, (source, _) in SOURCES.items() if "import_module(" in source}
    tables = {"checkpoints/table.py", "commands/measures/__init__.py", "commands/main.py", "datamodules/__init__.py"}
    assert users <= tables | {"commands/policies.py"}, "--env-module, and nothing else"


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("zoo", "import lightning.pytorch as L", {"lightning"}),
        ("zoo", "def f():\n    from checkpoints import load", {"checkpoints"}),
        ("zoo", "from pathlib import Path", {"pathlib"}),
        ("zoo", "import safetensors.torch", {"safetensors"}),
        ("zoo", "import torch, math\nfrom zoo.random import normal\nfrom . import nn", set()),
        ("checkpoints", "if TYPE_CHECKING:\n    import lightning_modules", {"lightning_modules"}),
        ("checkpoints", "from zoo import errors\nfrom checkpoints import store", set()),
        ("lightning_modules", "from datamodules import Digits", {"datamodules"}),
        ("datamodules", "import lightning_modules.diffusion.ddpm", {"lightning_modules"}),
        ("datamodules", "from checkpoints import load", {"checkpoints"}),
        ("commands", "import cli", {"cli"}),
        ("commands", "import tests.conftest", {"tests"}),
        ("commands", "import zoo, checkpoints, datamodules, lightning_modules", set()),
        ("cli", "from zoo import errors", {"zoo"}),
    ],
)
def test_a_planted_import_is_caught(package, source, wrong):
    assert wrong_imports(source, package) == wrong


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(file)",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_a_planted_call_is_caught(source):
    assert wrong_calls(source)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("isinstance(model, Flow)", ["Flow"]),
        ("isinstance(model, (Sampler, flows.Flow))", ["flows.Flow"]),
        ("config['model'] == 'actor'", ["actor"]),
        ("config['model'] in ('actor', 'critic')", ["actor"]),
        ("isinstance(model, Sampler) and hasattr(model, 'actor')", []),
    ],
)
def test_a_planted_ladder_is_caught(source, asked):
    assert asks_for_a_class(source, {"Flow", "actor"}) == asked


@pytest.mark.parametrize(
    ("a", "b", "c", "found"),
    [
        ("import zoo.b", "def f():\n    from zoo import a", "", [["zoo/a.py", "zoo/b.py"]]),
        ("from zoo.b import x", "from zoo.c import x", "from zoo.a import x", [["zoo/a.py", "zoo/b.py", "zoo/c.py"]]),
        ("from zoo import c", "from zoo import x", "from zoo.b import a", []),
        ("from zoo.b import x", "if TYPE_CHECKING:\n    from zoo.a import X", "import torch", []),
        ("import zoo", "", "", [["zoo/__init__.py", "zoo/a.py"]]),
    ],
)
def test_a_planted_circle_is_caught(a, b, c, found):
    package = "import zoo.a" if found and "zoo/__init__.py" in found[0] else ""
    assert circles({"zoo/__init__.py": package, "zoo/a.py": a, "zoo/b.py": b, "zoo/c.py": c}) == found


def test_a_planted_swallowing_constructor_is_caught():
    assert swallowing("class A:\n    def __init__(self, x, **kwargs): ...") == ["A"]
    assert swallowing("class A:\n    def __init__(self, x): ...\n    def f(self, **kwargs): ...") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports(package):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        assert inspect.getdoc(importlib.import_module(module.name)), f"{module.name} says nothing of itself"


def test_no_pickle_is_tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert ROOT / "cli.py" in paths
    for path in paths:
        if path.is_file():
            assert not is_pickle(path), path


def is_pickle(path: Path) -> bool:
    """Pickles, and the archives that PyTorch, joblib and numpy put them in, by their ending or their first bytes."""
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy", ".npz"):
        return True
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\3\4" or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def test_a_planted_pickle_is_caught(tmp_path):
    import pickle

    import torch

    (tmp_path / "a.json").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": 1}, tmp_path / "model.safetensors")
    (tmp_path / "b.json").write_text("{}")
    assert is_pickle(tmp_path / "a.json")
    assert is_pickle(tmp_path / "model.safetensors")
    assert not is_pickle(tmp_path / "b.json")
