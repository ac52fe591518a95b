"""What a stranger's file could do, and does not do here.

Each attack is first carried out on what this project is built upon, without the project's rules, to show that it works;
everything happens in a temporary folder. (Environments named like "evil:X-v0" wait for reinforcement learning: nothing
in this version takes the name of an environment.)
"""

import json
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
import yaml
from huggingface_hub import constants, hf_hub_download

import checkpoints
from checkpoints.catalogue import CARD, CONFIG, FILES, REFERENCE, RESULTS, WEIGHTS
from checkpoints.hub import publish
from tests import hub_server
from tests.conftest import Payload
from tests.runs import TINY
from zoo.errors import UserError

GB = 2**30


@pytest.fixture
def harm(tmp_path):
    """What the attacks make: a folder that must not be there."""
    return tmp_path / "harm"


@pytest.fixture
def attacker(tmp_path, harm, monkeypatch):
    """A module on the search path that does its harm when it is imported."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    lines = f"import lightning as L, os\nos.mkdir({str(harm)!r})\nclass Attack(L.LightningModule): ...\n"
    (place / "attacker.py").write_text(lines)
    monkeypatch.syspath_prepend(place)
    yield place
    sys.modules.pop("attacker", None)


def in_another_process(code: str, *arguments: object, memory: int | None = None) -> subprocess.CompletedProcess:
    """Runs code with arguments, in at most so many bytes of memory beyond what PyTorch takes."""
    limit = "import resource, torch\nused = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    limit += f"resource.setrlimit(resource.RLIMIT_AS, 2 * [used + {memory}])\n"
    code = (limit if memory else "") + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )


# pickles


def checkpoint_with_a_payload(path, harm):
    arguments = {"image_shape": [1, 8, 8], "num_classes": 10, "channels": 4}
    content = {"model": "image-classifier", "arguments": arguments, "origin": {}, "global_step": 0, "state_dict": {}}
    torch.save(content | {"callbacks": Payload(harm)}, path)
    return path


def test_a_pickle_in_a_checkpoint(tmp_path, harm, refused):
    path = checkpoint_with_a_payload(tmp_path / "stranger.ckpt", harm)
    torch.load(path, weights_only=False)
    assert harm.exists()
    harm.rmdir()
    assert "is refused" in refused("export", path, tmp_path / "model")
    options = ("--config", TINY, "--ckpt_path", path, "--trainer.default_root_dir", tmp_path / "run")
    for verb in ("fit", "validate", "test", "predict"):
        assert "is refused" in refused(verb, *options)
    assert not harm.exists()
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("dump", [pickle.dump, torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("file", [WEIGHTS, REFERENCE])
def test_a_pickle_in_place_of_weights(hub, finished, tmp_path, harm, command, refused, dump, file):
    with (tmp_path / "payload").open("wb") as target:
        dump({"weight": Payload(harm)}, target)
    if dump is pickle.dump:
        pickle.loads((tmp_path / "payload").read_bytes())
    else:
        torch.load(tmp_path / "payload", weights_only=False)
    assert harm.exists()
    harm.rmdir()
    files = {name: (finished / name).read_bytes() for name in FILES}
    hub.add("stranger/model", files | {file: (tmp_path / "payload").read_bytes(), "pytorch_model.bin": b""})
    assert f"{file} is not a whole safetensors file" in refused("download", "hf://stranger/model")
    if file == WEIGHTS:
        output = tmp_path / "samples.png"
        assert f"{file} is not a whole safetensors file" in refused("sample", "hf://stranger/model", "--output", output)
    assert not harm.exists()


# classes of strangers


def test_a_class_named_by_a_config_or_a_checkpoint(tmp_path, attacker, harm, refused):
    (tmp_path / "config.yaml").write_text("model: attacker.Attack\n")
    torch.save({"hyper_parameters": {"_class_path": "attacker.Attack"}, "state_dict": {}}, tmp_path / "stranger.ckpt")
    unprotected = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from lightning.pytorch.cli import LightningCLI
        for options in (["--config", sys.argv[2]], ["--model", "lightning.pytorch.demos.boring_classes.BoringModel",
                        "--ckpt_path", sys.argv[3]]):
            try:
                LightningCLI(args=["fit", *options, "--trainer.max_steps", "0"], subclass_mode_model=True)
            except BaseException:
                pass
            print(os.path.isdir(sys.argv[4]))
            os.rmdir(sys.argv[4])
            sys.modules.pop("attacker", None)
    """
    done = in_another_process(unprotected, attacker, tmp_path / "config.yaml", tmp_path / "stranger.ckpt", harm)
    assert done.stdout.split() == ["True", "True"], done.stderr

    root = ("--trainer.default_root_dir", tmp_path / "run")
    assert "'attacker.Attack' may not be named in a config" in refused(
        "fit", "--config", tmp_path / "config.yaml", *root
    )
    assert "it lacks one of model" in refused("fit", "--config", TINY, "--ckpt_path", tmp_path / "stranger.ckpt", *root)
    assert "attacker" not in sys.modules
    assert not harm.exists()


def test_a_class_named_by_a_model_folder(finished, copy, attacker, harm, refused):
    __import__("importlib").import_module("attacker")  # what a loader that follows names would do
    assert harm.exists()
    harm.rmdir()
    del sys.modules["attacker"]
    folder = copy(finished)
    (folder / CONFIG).write_text('{"model": "attacker.Attack", "arguments": {}}')
    assert "unknown model class 'attacker.Attack'" in refused("download", folder)
    assert "attacker" not in sys.modules


def test_python_in_yaml(tmp_path, harm, refused):
    text = f'!!python/object/apply:os.mkdir ["{harm}"]\n'
    yaml.unsafe_load(text)
    assert harm.exists()
    harm.rmdir()
    (tmp_path / "config.yaml").write_text(f"seed_everything: {text}")
    root = ("--trainer.default_root_dir", tmp_path / "run")
    assert refused("fit", "--config", tmp_path / "config.yaml", *root)
    (tmp_path / "config.yaml").write_text(text)
    assert refused("fit", "--config", tmp_path / "config.yaml", *root)
    assert not harm.exists()


# names and links that lead out of the folder


@pytest.mark.parametrize("name", ["../../up.txt", "/{tmp}/absolute.txt", "sub/../../../up.txt", "..\\up.txt", "link"])
def test_names_of_a_repository(hub, finished, tmp_path, command, name):
    name = name.format(tmp=str(tmp_path).strip("/"))
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    # a downloader that trusts the list of files
    (place / "sub").mkdir()
    (place / name).write_bytes(b"harm") if name != "link" else (place / name).symlink_to("/etc/passwd")
    escaped = [path for path in tmp_path.rglob("*") if path.is_file() and (path.is_symlink() or path.parent != place)]
    assert escaped or "\\" in name
    for path in escaped:
        path.unlink()
    files = {name: (finished / name).read_bytes() for name in FILES}
    hub.add("stranger/model", files | {name: b"harm"})
    before = {path for path in tmp_path.rglob("*") if "cache" not in str(path)}
    assert command("download", "hf://stranger/model", "--to", place / "model").status == 0
    after = {path for path in tmp_path.rglob("*") if "cache" not in str(path)}
    assert after - before == {place / "model", *(place / "model" / name for name in FILES)}
    cached = {path.name for path in tmp_path.rglob("cache*/models*/snapshots/*/*")}
    assert cached == {*FILES}


def test_a_link_in_the_place_of_a_file(hub, finished, tmp_path, command):
    """In git a link is a small file that holds a path; as one it must stay."""
    files = {name: (finished / name).read_bytes() for name in FILES}
    hub.add("stranger/model", files | {"train.yaml": b"/etc/passwd"})
    assert command("download", "hf://stranger/model", "--to", tmp_path / "model").status == 0
    assert (tmp_path / "model" / "train.yaml").read_bytes() == b"/etc/passwd"
    assert not (tmp_path / "model" / "train.yaml").is_symlink()


def test_a_server_that_names_files_outside(hub, finished, tmp_path, monkeypatch, command):
    """The client of the Hub (2.4.0) puts a file where the ETag of the answer leads."""
    send = hub_server._Handler._send

    def send_a_path(handler, status, content=b"", **headers):
        for key in {"ETag", "X_Linked_Etag"} & headers.keys():
            headers[key] = '"../../../escaped/evil"'
        send(handler, status, content, **headers)

    monkeypatch.setattr(hub_server._Handler, "_send", send_a_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "a" / "cache"))
    hub.add("stranger/model", {name: (finished / name).read_bytes() for name in FILES})
    for place in (tmp_path / "escaped", tmp_path / "a" / "escaped"):
        place.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a" / "cache" / ".locks" / "x").mkdir(parents=True)
    hf_hub_download("stranger/model", CONFIG)
    escaped = [path for place in ("escaped", "a/escaped") for path in (tmp_path / place).iterdir()]
    assert escaped
    for path in escaped:
        path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "a" / "cache-of-ours"))
    assert command("download", "hf://stranger/model", "--to", tmp_path / "model").status == 0
    assert not [path for place in ("escaped", "a/escaped") for path in (tmp_path / place).iterdir()]


@pytest.mark.parametrize("checksum", ["../../../../evil", "", "a" * 39, "A" * 40, None])
def test_a_listing_with_paths_for_checksums(hub, finished, tmp_path, refused, monkeypatch, checksum):
    monkeypatch.setattr(hub_server, "_git", lambda content: checksum)
    hub.add("stranger/model", {name: (finished / name).read_bytes() for name in FILES})
    assert "lists no checksum for config.json" in refused("download", "hf://stranger/model", "--to", tmp_path / "model")
    assert not [*tmp_path.rglob("*evil*")]


def test_a_link_in_a_folder_to_publish(hub, finished, copy, tmp_path):
    """Whoever publishes a folder that a stranger has packed would send a file of his own."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = copy(finished)
    (folder / "train.yaml").unlink()
    (folder / "train.yaml").symlink_to(secret)
    assert (folder / "train.yaml").read_text() == "secret"
    with pytest.raises(UserError, match=r"train\.yaml is a link: put the file itself there"):
        publish(folder, "me/model")
    assert hub.requests == []


# sizes


def test_sizes_that_no_memory_holds(finished, copy, tmp_path):
    """A header and a tensor of terabytes, layers of billions: read by a trusting reader, and by ours, in 1 GB."""
    folders = [copy(finished).rename(tmp_path / name) for name in ("header", "tensor", "layer", "large-layer")]
    tensor = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folders[0] / WEIGHTS).write_bytes((2**42).to_bytes(8, "little") + tensor)
    (folders[1] / WEIGHTS).write_bytes(len(tensor).to_bytes(8, "little") + tensor + bytes(64))
    for folder, channels in ((folders[2], 10**9), (folders[3], 40_000)):
        config = json.loads((folder / CONFIG).read_text())
        config["arguments"]["channels"] = channels
        (folder / CONFIG).write_text(json.dumps(config))

    trusting = """
        import json, sys, torch
        from zoo.diffusion.model import ImageDiffusion
        for folder in sys.argv[1:]:
            try:
                with open(folder + "/model.safetensors", "rb") as file:
                    header = bytearray(int.from_bytes(file.read(8), "little"))
                    file.readinto(header)
                    if "w" in json.loads(header):
                        torch.empty(json.loads(header)["w"]["shape"])
                ImageDiffusion(**json.load(open(folder + "/config.json"))["arguments"])
            except (MemoryError, RuntimeError) as error:
                print(type(error).__name__, str(error).splitlines()[:1])
    """
    done = in_another_process(trusting, *folders, memory=GB)
    header, tensor, layer, large_layer = done.stdout.splitlines()
    assert header.startswith("MemoryError")
    assert "can't allocate memory" in tensor
    assert "Storage size calculation overflowed" in layer
    assert "can't allocate memory" in large_layer

    ours = "import sys; from commands.main import main; print([main(['download', folder]) for folder in sys.argv[1:]])"
    done = in_another_process(ours, *folders, memory=GB)
    assert done.stdout == "[2, 2, 2, 2]\n"
    header, tensor, layer, large_layer = done.stderr.splitlines()
    assert header.startswith(f"error: {folders[0] / WEIGHTS} is not a whole safetensors file")
    assert tensor.startswith(f"error: {folders[1] / WEIGHTS} is not a whole safetensors file")
    assert layer == (
        f"error: {folders[2] / CONFIG}: the arguments of 'image-diffusion' do not fit: channels is beyond 1,000,000"
    )
    assert large_layer.startswith(f"error: {folders[3] / WEIGHTS} has weight ")


@pytest.mark.parametrize("change", [{"blocks_per_level": 10**6}, {"channel_multipliers": [1] * 10**6}], ids=[*"ab"])
def test_a_config_of_endless_layers(finished, copy, change):
    """Layers cost time even where they take no memory: they stop at what the file of weights holds."""
    folder = copy(finished)
    config = json.loads((folder / CONFIG).read_text())
    config["arguments"] |= change
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="do not fit"):
        checkpoints.load(str(folder))


@pytest.mark.parametrize("file", [CONFIG, RESULTS])
def test_json_nested_a_million_deep(finished, copy, refused, file):
    folder = copy(finished)
    (folder / file).write_text('{"arguments": ' * 1_000_000)
    with pytest.raises(RecursionError):
        json.loads((folder / file).read_text())
    verb = ("download", folder) if file == CONFIG else ("publish", folder, "--repo-id", "me/model")
    assert f"{folder / file} cannot be read" in refused(*verb)


# cards


def test_a_script_in_a_card(hub, finished, copy, tmp_path, command):
    script = "<script>document.title = 'harm'</script>"
    folder = copy(finished)
    (folder / CARD).write_text(f"# a card\n\n{script}\n")
    results = json.loads((folder / RESULTS).read_text())
    results["metrics"] = {script: results["metrics"]["fid"] | {"protocol": script}}
    (folder / RESULTS).write_text(json.dumps(results | {"command": script, "picture": script}))
    pasted = f"| {script} | {results['metrics'][script]['protocol']} |"
    assert script in pasted  # what a template without care would write
    assert command("publish", folder, "--repo-id", "me/model").status == 0
    published = hub.repositories["me/model"].commits[-1].files[CARD].decode()
    assert "<script" not in published
    assert "&lt;script&gt;" in published
