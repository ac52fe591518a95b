"""The verb: what it prints, what it refuses, and that it sends what was verified."""

import json
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file, save_file

import checkpoints
from checkpoints.catalogue import FILES, WEIGHTS
from tests.hub_server import Fault

PROGRAM = [sys.executable, "-c", "from commands.main import main; raise SystemExit(main())"]
REPO = ("--repo-id", "me/tiny-waves")


def test_published_and_downloaded(hub, cache, command, finished, tmp_path):
    answer = command("publish", finished, *REPO)
    sha = hub.repositories["me/tiny-waves"].commits[-1].sha
    assert answer == (0, f"published {hub.url}/me/tiny-waves at commit {sha}\n", "")
    cache()
    assert command("download", f"hf://me/tiny-waves@{sha}", "--to", tmp_path / "mine").status == 0
    for name in {*FILES} - {"README.md"}:
        assert (tmp_path / "mine" / name).read_bytes() == (finished / name).read_bytes()


def test_the_answer_as_json(hub, command, finished):
    answer = command("publish", finished, *REPO, "--private", "--json")
    repository = hub.repositories["me/tiny-waves"]
    assert json.loads(answer.out) == {"url": f"{hub.url}/me/tiny-waves", "commit": repository.commits[-1].sha}
    assert repository.private


def test_a_shipped_model_is_published(hub, command):
    assert command("publish", "classifier-digits", "--repo-id", "me/judge").status == 0
    assert checkpoints.verify("hf://me/judge") == checkpoints.verify("classifier-digits")


def test_a_dry_run_lists_and_sends_nothing(hub, command, finished):
    answer = command("publish", finished, *REPO, "--dry-run")
    assert hub.requests == []
    assert answer.err == ""
    first, *rest = answer.out.splitlines()
    assert first == f"would upload to {hub.url}/me/tiny-waves in one commit:"
    assert [line.split()[0] for line in rest] == [*FILES]
    answer = json.loads(command("publish", finished, *REPO, "--dry-run", "--json").out)
    assert answer.keys() == {"url", "commit", "files"}
    assert hub.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST /api/(repos|models)", status=401),
        Fault("PUT", after=900),
        Fault("PUT", status=500),
        Fault("POST .*/commit/", status=500),
    ],
    ids=lambda fault: fault.pattern + str(fault.status or ""),
)
def test_a_fault_is_one_line_and_a_second_try_succeeds(hub, refused, command, finished, fault):
    hub.faults = [fault]
    assert refused("publish", finished, *REPO)
    hub.faults = []
    assert command("publish", finished, *REPO).status == 0


def test_killed_in_the_middle_of_an_upload_leaves_the_repository_as_it_was(hub, command, finished):
    hub.add("me/tiny-waves", {"README.md": b"the old"})
    hub.faults = [Fault("PUT /lfs/", wait_s=1)]
    running = subprocess.Popen([*PROGRAM, "publish", finished, *REPO], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not hub.lines("PUT /lfs/") and time.monotonic() < until:
        time.sleep(0.02)
    running.kill()
    assert running.wait() == -9
    assert [commit.files for commit in hub.repositories["me/tiny-waves"].commits] == [{"README.md": b"the old"}]
    hub.faults = []
    assert command("publish", finished, *REPO).status == 0
    assert checkpoints.verify("hf://me/tiny-waves") == 0


def test_what_is_not_right_is_not_sent(hub, refused, finished, copy, tiny):
    assert "has no results.json to write a card from" in refused("publish", tiny, *REPO)
    assert "unknown model 'nothing'" in refused("publish", "nothing", *REPO)
    assert "the following arguments are required: --repo-id" in refused("publish", finished)
    assert "is not of the form hf://owner/repo" in refused("publish", finished, "--repo-id", "mine")
    folder = copy(finished)
    state = load_file(folder / WEIGHTS)
    state["network.conv_out.bias"] += 0.01
    save_file(state, folder / WEIGHTS)
    assert "does not reproduce its reference output" in refused("publish", folder, *REPO)
    assert hub.requests == []


def test_without_a_token_it_says_how_to_get_one(hub, refused, finished, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "log in with `hf auth login`" in refused("publish", finished, *REPO)
