"""The Python package: what it lists, loads, fetches, measures and sends, without PyTorch until it is needed."""

import subprocess
import sys

import pytest
import torch

import checkpoints
import lightning_zoo as lz
from checkpoints.catalogue import CARD, CONFIG, FILES, WEIGHTS
from zoo.errors import UserError

REPO = "me/tiny-waves"


@pytest.fixture
def published(hub, finished):
    """The stand-in Hub with the finished model on it."""
    hub.add(REPO, {name: (finished / name).read_bytes() for name in FILES if (finished / name).exists()})
    return hub


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_importing_and_listing_bring_in_nothing_heavy():
    code = "import lightning_zoo as lz, sys; lz.list_models(); print({'torch', 'huggingface_hub'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"


def test_all_is_what_there_is():
    public = {name for name, value in vars(lz).items() if getattr(value, "__module__", "") == "lightning_zoo"}
    assert public == {*lz.__all__}


def test_models_are_listed_by_pattern():
    assert lz.list_models() == [*checkpoints.shipped()]
    assert "ppo-cartpole" in lz.list_models("ppo-*")
    assert all(name.startswith("ppo-") for name in lz.list_models("ppo-*"))
    assert lz.list_models("no-such-*") == []


def test_a_model_is_loaded_by_name_and_by_folder(tiny):
    assert not lz.load("classifier-digits").training
    assert same(lz.load(str(tiny)), checkpoints.load(str(tiny)))


def test_a_wrong_name_is_a_value_error():
    with pytest.raises(ValueError, match="did you mean ppo-cartpole"):
        lz.load("ppo-cartpol")


def test_download_copies_or_says_where(finished, tmp_path):
    assert lz.download(str(finished)) == finished
    copied = lz.download(str(finished), tmp_path / "copy")
    assert copied == tmp_path / "copy"
    assert (copied / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        lz.download(str(finished), str(copied))


def test_evaluate_returns_numbers_and_prints_nothing(capsys):
    metrics = lz.evaluate("classifier-digits", device="cpu")
    assert metrics["test_accuracy"]["ok"]
    assert metrics["test_accuracy"]["now"] == pytest.approx(metrics["test_accuracy"]["card"], abs=0.003)
    assert capsys.readouterr() == ("", "")


def test_from_pretrained_takes_names_folders_and_repositories(published, tiny):
    for model_id in (REPO, f"hf://{REPO}", str(tiny)):
        assert same(lz.from_pretrained(model_id), checkpoints.load(str(tiny)))
    assert not lz.from_pretrained("classifier-digits").training


def test_a_revision_is_fetched_by_name(published, finished, conditional):
    published.add(REPO, {name: (conditional / name).read_bytes() for name in (CONFIG, WEIGHTS)})
    first, newest = (commit.sha for commit in published.repositories[REPO].commits)
    assert same(lz.from_pretrained(REPO, revision=first), checkpoints.load(str(finished)))
    assert same(lz.from_pretrained(REPO, revision=newest), checkpoints.load(str(conditional)))
    with pytest.raises(UserError, match="no such revision"):
        lz.from_pretrained(REPO, revision="v9")
    with pytest.raises(UserError, match="leave it out"):
        lz.from_pretrained(str(finished), revision="main")


def test_local_files_only_asks_nobody(published, tiny):
    with pytest.raises(UserError, match="the cache does not hold"):
        lz.from_pretrained(REPO, local_files_only=True)
    assert published.lines() == []
    lz.from_pretrained(REPO)
    asked = len(published.lines())
    assert same(lz.from_pretrained(REPO, local_files_only=True), checkpoints.load(str(tiny)))
    assert len(published.lines()) == asked


def test_push_to_hub_sends_a_verified_folder_in_one_commit(hub, finished):
    url = lz.push_to_hub(finished, REPO, private=True, commit_message="First try")
    assert url == f"{hub.url}/{REPO}"
    repository = hub.repositories[REPO]
    assert repository.private
    assert [commit.title for commit in repository.commits][-1] == "First try"
    assert f"hf://{REPO}".encode() in repository.commits[-1].files[CARD]
    assert same(lz.from_pretrained(REPO), checkpoints.load(str(finished)))


def test_a_token_is_passed_on(hub, finished, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="hf auth login"):
        lz.push_to_hub(finished, REPO)
    assert lz.push_to_hub(finished, REPO, private=True, token="hf_me") == f"{hub.url}/{REPO}"
    with pytest.raises(UserError, match="no repository"):
        lz.from_pretrained(REPO)
    assert same(lz.from_pretrained(REPO, token="hf_me"), checkpoints.load(str(finished)))


def test_what_cannot_be_verified_is_not_sent(hub, finished, copy):
    folder = copy(finished)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        lz.push_to_hub(folder, REPO)
    assert hub.lines("POST|PUT") == []
