"""Publish and fetch, against the stand-in Hub: the same bytes come back, and what goes wrong is one line."""

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download, scan_cache_dir
from safetensors.torch import load_file, save_file

import checkpoints
from checkpoints import hub as module
from checkpoints.catalogue import CARD, CONFIG, FILES, REFERENCE, RESULTS, WEIGHTS
from checkpoints.hub import fetch, parse, publish
from checkpoints.store import reference
from tests.hub_server import Fault, judge_card
from zoo.errors import UserError

REPO = "me/tiny-waves"
MODEL = f"hf://{REPO}"


def refusal(function, *arguments, **options) -> str:
    """The one line of the UserError that a call must end with."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


@pytest.fixture
def published(hub, finished):
    """The Hub with the finished model on it, put there by its owner; nothing is logged of that."""
    hub.add(REPO, contents(finished) | {"pytorch_model.bin": b"not looked at"})
    return hub


# the form of a name


@pytest.mark.parametrize(
    ("model", "parsed"),
    [
        ("hf://me/model", ("me/model", "main")),
        ("hf://me/model@v1.0", ("me/model", "v1.0")),
        ("hf://some-one/a.b_c-d@refs/pr/3", ("some-one/a.b_c-d", "refs/pr/3")),
    ],
)
def test_a_name_is_parsed(model, parsed):
    assert parse(model) == parsed


@pytest.mark.parametrize(
    "rest",
    ["", "model", "me/", "/model", "me//model", "a/b/c", "../model", "me/..", "me\\model", "me/-model", "me/model.git"]
    + ["me/mo del", "me/mödel", "me/" + "m" * 97, "me/model?x=1", "user:pass@host/model"]
    + [f"me/model@{revision}" for revision in ("", "../x", "/etc", "a b", "a\nb", "a?b", "a#b", "a" * 201)],
)
def test_a_wrong_name_is_refused_without_asking_anyone(hub, rest):
    assert "is not of the form hf://owner/repo" in refusal(fetch, f"hf://{rest}")
    assert hub.requests == []


# there and back


def test_published_and_fetched_elsewhere_is_bit_equal(hub, cache, finished):
    answer = publish(finished, REPO)
    assert answer == {"url": f"{hub.url}/{REPO}", "commit": hub.repositories[REPO].commits[-1].sha}
    cache()
    folder = fetch(MODEL)
    assert folder != finished
    sent, came = contents(finished), contents(folder)
    assert {*came} == {*FILES}
    assert {name: content for name, content in came.items() if name != CARD} == {
        name: content for name, content in sent.items() if name != CARD
    }
    assert checkpoints.verify(str(folder)) == 0
    ours, theirs = (
        checkpoints.load(model).sample(3, steps=4, generator=torch.Generator().manual_seed(5))
        for model in (str(finished), MODEL)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", checkpoints.shipped())
def test_a_shipped_model_comes_back(hub, cache, name):
    publish(checkpoints.shipped()[name], f"me/{name}", private=True)
    cache()
    outputs = [reference(checkpoints.load(place))["output"] for place in (name, f"hf://me/{name}")]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_a_publication_is_one_commit(hub, finished):
    publish(finished, REPO)
    first, second = hub.repositories[REPO].commits
    assert first.title == "initial commit"  # the Hub's own
    assert second.title == f"Publish {REPO}"
    assert {*second.files} == {*FILES, ".gitattributes"}
    assert len(hub.lines("/commit/")) == 1


def test_the_published_card_says_how_to_load_it_from_there(hub, finished):
    publish(finished, REPO)
    card = hub.repositories[REPO].commits[-1].files[CARD].decode()
    assert f'load("{MODEL}")' in card
    assert f"lightning-zoo sample {MODEL} " in card
    assert f"lightning-zoo evaluate {MODEL}`" in card
    assert judge_card(card) == ([], [])
    assert hub.lines("validate-yaml")
    assert 'load("tiny-waves")' in (finished / CARD).read_text()  # the folder's own is as it was


def test_a_second_publication_is_a_second_commit_with_what_changed(hub, cache, finished, copy):
    publish(finished, REPO)
    folder = copy(finished)
    state = load_file(folder / WEIGHTS)
    state["network.conv_out.bias"] += 1
    save_file(state, folder / WEIGHTS)
    (folder / REFERENCE).unlink()
    commit = publish(folder, REPO)["commit"]
    titles = [commit.title for commit in hub.repositories[REPO].commits]
    assert titles == ["initial commit", f"Publish {REPO}", f"Publish {REPO}"]
    assert len(hub.lines("PUT /lfs/")) == 4  # weights twice, reference and picture once
    cache()
    torch.testing.assert_close(checkpoints.load(MODEL).state_dict(), checkpoints.load(str(folder)).state_dict())
    assert fetch(f"{MODEL}@{commit}").name == commit


def test_nothing_new_is_no_commit(hub, finished):
    first = publish(finished, REPO)
    assert publish(finished, REPO) == first
    assert len(hub.repositories[REPO].commits) == 2


def test_revisions(hub, cache, finished, copy):
    publish(finished, REPO)
    HfApi().create_tag(REPO, tag="v1")
    folder = copy(finished)
    (folder / RESULTS).write_text((folder / RESULTS).read_text().replace("1.25", "1.5"))
    publish(folder, REPO)
    old, new = (hub.repositories[REPO].commits[i].sha for i in (1, 2))
    for revision, sha, value in (
        ("@v1", old, "1.25"),
        (f"@{old}", old, "1.25"),
        ("", new, "1.5"),
        ("@main", new, "1.5"),
    ):
        fetched = fetch(MODEL + revision)
        assert fetched.name == sha
        assert value in (fetched / RESULTS).read_text()
    assert "no such revision" in refusal(fetch, f"{MODEL}@v2")


def test_private(hub, cache, finished, monkeypatch):
    publish(finished, REPO, private=True)
    assert hub.repositories[REPO].private
    cache()
    for token in ("hf_other", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        assert "there is no repository me/tiny-waves, or it is private" in refusal(fetch, MODEL)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    assert fetch(MODEL)


def test_private_is_not_promised_of_a_public_repository(hub, finished):
    publish(finished, REPO)
    before = [*hub.repositories[REPO].commits]
    assert "is there already, and public" in refusal(publish, finished, REPO, private=True)
    assert hub.repositories[REPO].commits == before


def test_a_dry_run_asks_nothing_of_the_hub(hub, finished):
    answer = publish(finished, REPO, dry_run=True)
    assert hub.requests == []
    assert answer["commit"] is None
    assert {*answer["files"]} == {*FILES}
    assert answer["files"][WEIGHTS] == (finished / WEIGHTS).stat().st_size


def test_what_cannot_be_published_is_told_without_asking_the_hub(hub, tiny, finished, copy):
    assert "has no results.json to write a card from" in refusal(publish, tiny, REPO)
    assert "is not of the form" in refusal(publish, finished, "tiny-waves")
    assert "newest revision of OWNER/NAME" in refusal(publish, finished, f"{REPO}@v1")
    folder = copy(finished).rename(finished.parent / "a `name`")
    assert publish(folder, REPO, dry_run=True)["commit"] is None  # the model has the repository's name
    assert hub.requests == []


def test_what_came_from_the_hub_can_be_published_again(hub, finished):
    publish(finished, REPO)
    publish(fetch(MODEL), "me/again")
    assert checkpoints.verify("hf://me/again") == 0
    assert b"\n# again\n" in hub.repositories["me/again"].commits[-1].files[CARD]


# the cache


def test_a_second_fetch_downloads_nothing(published):
    folder = fetch(MODEL)
    published.requests.clear()
    assert fetch(MODEL) == folder
    assert published.lines("GET .*/(resolve|cdn)/") == []


def test_only_files_that_changed_are_downloaded_again(published):
    fetch(MODEL)
    published.add(REPO, {RESULTS: b"{}"})
    published.requests.clear()
    assert (fetch(MODEL) / RESULTS).read_text() == "{}"
    assert [line.rsplit("/", 1)[1] for line in published.lines("GET .*/(resolve|cdn)/")] == [RESULTS]


def test_other_programs_find_it_in_the_cache(published):
    folder = fetch(MODEL)
    published.requests.clear()
    assert hf_hub_download(REPO, WEIGHTS, local_files_only=True) == str(folder / WEIGHTS)
    assert published.requests == []
    overview = scan_cache_dir(constants.HF_HUB_CACHE)
    assert overview.warnings == []
    assert [repository.repo_id for repository in overview.repos] == [REPO]
    assert overview.size_on_disk == sum(path.stat().st_size for path in folder.iterdir())


def test_what_other_programs_downloaded_is_used(published):
    hf_hub_download(REPO, WEIGHTS)
    published.requests.clear()
    fetch(MODEL)
    assert published.lines("GET .*/cdn/.*") == [line for line in published.lines("GET .*/cdn/") if WEIGHTS not in line]
    assert len(published.lines("GET /cdn/")) == 2  # reference and picture


def test_offline_uses_the_cache_and_asks_nobody(published, monkeypatch):
    folder = fetch(MODEL)
    published.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(MODEL) == folder
    assert fetch(f"{MODEL}@{folder.name}") == folder
    told = refusal(fetch, f"{MODEL}@v1")
    assert "HF_HUB_OFFLINE is set" in told
    assert "config.json of me/tiny-waves@v1" in told
    assert published.requests == []


def test_offline_says_which_file_is_missing(published, monkeypatch):
    hf_hub_download(REPO, CONFIG)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the cache does not hold model.safetensors of me/tiny-waves@main" in refusal(fetch, MODEL)


def test_a_damaged_file_in_the_cache_is_found_and_fetched_anew(published):
    folder = fetch(MODEL)
    damaged = bytearray((folder / WEIGHTS).read_bytes())
    damaged[-1] ^= 1
    (folder / WEIGHTS).write_bytes(damaged)
    assert "model.safetensors of me/tiny-waves was damaged in" in refusal(fetch, MODEL)
    assert checkpoints.verify(MODEL) == 0


def test_a_lost_file_of_the_cache_is_fetched_anew(published):
    folder = fetch(MODEL)
    (folder / WEIGHTS).resolve().unlink()  # the link to it stays
    assert (fetch(MODEL) / WEIGHTS).read_bytes()


# what goes wrong in a download: one line, and a second try succeeds


FAULTS = {
    "wrong token": (Fault("GET /api/models", status=401), "refuses access to me/tiny-waves: log in with"),
    "forbidden": (Fault("GET .*/resolve/", status=403), "refuses access"),
    "hub down": (Fault("GET /api/models", status=503), "error 503, and the cache does not hold config.json"),
    "error in a download": (Fault("GET .*/resolve/", status=500), "error 500: try again, the download resumes"),
    "error in a large download": (Fault("GET /cdn/", status=500), "error 500: try again, the download resumes"),
    "rate limit": (Fault("GET /cdn/", status=429), "error 429"),
    "lost object": (Fault("GET /cdn/", status=404), "error 404"),
    "missing file": (Fault("GET .*/resolve/.*/config.json", status=404), "error 404"),
    "cut listing": (Fault("GET /api/models", cut=20), "the connection to the Hub failed"),
    "listing that is none": (Fault("GET /api/models", body=b"<html>log in to the hotel</html>"), "the Hub answered"),
    "listing of nothing": (Fault("GET /api/models", body=b'{"id": "me/tiny-waves"}'), "config.json is missing there"),
    "no answer": (Fault("GET /api/models", after=0), "the connection to the Hub failed"),
    "cut download": (Fault("GET /cdn/", cut=0), "the connection to the Hub failed (RemoteProtocolError)"),
    "wrong bytes": (Fault("GET /cdn/", body=b"x" * 1000), "try again"),
    "too many bytes": (Fault("GET .*/resolve/.*/config.json", body=b"x" * 100_000), "try again"),
    "hang-up": (Fault("GET .*/resolve/", after=0), "the connection to the Hub failed"),
    "redirect to nowhere": (Fault("GET .*/resolve/", status=302), "try again"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_and_a_second_try_succeeds(published, finished, name):
    fault, told = FAULTS[name]
    published.faults = [fault]
    assert told in refusal(fetch, MODEL)
    published.faults = []
    assert contents(fetch(MODEL)) == contents(finished)


def test_right_size_and_wrong_bytes(published, finished):
    size = (finished / WEIGHTS).stat().st_size
    published.faults = [Fault("GET /cdn/", body=bytes(size), times=1)]
    assert "model.safetensors arrived damaged (wrong checksum) and was removed" in refusal(fetch, MODEL)
    assert contents(fetch(MODEL)) == contents(finished)


def test_rubbish_left_by_an_earlier_try_is_replaced(published, finished):
    published.faults = [Fault("GET /cdn/", body=b"x" * 1000, times=1)]
    assert "try again" in refusal(fetch, MODEL)
    published.faults = []
    assert contents(fetch(MODEL)) == contents(finished)
    assert ranges(published)[:3] == [None, "bytes=1000-", None]


def test_missing_things(hub, finished):
    assert "there is no repository me/tiny-waves" in refusal(fetch, MODEL)
    hub.add(REPO, {CONFIG: b"{}", "pytorch_model.bin": b""})
    assert "is not a model of this project: model.safetensors is missing there" in refusal(fetch, MODEL)
    hub.add(REPO, contents(finished))
    assert fetch(MODEL)


def test_a_wrong_token_is_told(published, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the Hub refuses access to me/tiny-waves: log in with `hf auth login`" in refusal(fetch, MODEL)


def test_gated(hub, finished, monkeypatch):
    hub.add(REPO, contents(finished), gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "is gated: ask for access on its page" in refusal(fetch, MODEL)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    assert fetch(MODEL)


def test_a_slow_hub_is_waited_for_and_a_silent_one_is_not(published, monkeypatch):
    published.faults = [Fault("GET /api/models", wait_s=0.1, times=1), Fault("GET /cdn/", wait_s=0.05)]
    assert fetch(MODEL)
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    published.faults = [Fault("GET /api/models", wait_s=0.3)]
    assert "does not answer in time" in refusal(fetch, f"{MODEL}@v1")
    published.faults = []
    monkeypatch.setattr(module, "TIMEOUT_S", 5)
    assert fetch(MODEL)


def test_no_connection_uses_the_cache(published, monkeypatch):
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    told = refusal(fetch, MODEL)
    assert "the connection to the Hub failed (ConnectError), and the cache does not hold config.json" in told
    monkeypatch.setattr(constants, "ENDPOINT", published.url)
    folder = fetch(MODEL)
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    assert fetch(MODEL) == folder


def test_a_change_between_listing_and_download_does_not_mix_commits(published, finished):
    published.faults = [Fault("GET .*/resolve/", call=lambda: published.add(REPO, {RESULTS: b"{}"}), times=1)]
    assert contents(fetch(MODEL)) == contents(finished)
    assert contents(fetch(MODEL)) == contents(finished) | {RESULTS: b"{}"}


def test_a_listed_commit_that_is_gone_is_told(published, finished):
    """As after a forced push."""

    def rewrite():
        published.repositories.clear()
        published.add(REPO, contents(finished))

    published.faults = [Fault("GET .*/resolve/", call=rewrite, times=1)]
    assert "changed while it was downloaded: try again" in refusal(fetch, MODEL)
    assert contents(fetch(MODEL)) == contents(finished)


def test_a_full_disk_is_told(published, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "http_get", full)
        assert refusal(fetch, MODEL).endswith(": No space left on device")
    assert fetch(MODEL)


# resuming


@pytest.fixture
def small_chunks(monkeypatch):
    """The client hands bytes on in chunks of 10 MB, so that what a cut has left of a chunk is fetched again."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)


def ranges(hub):
    """What part of a file each download asked for; the weights come first."""
    return [request.headers.get("range") for request in hub.requests if request.line.startswith("GET /cdn/")]


def test_a_cut_download_goes_on_by_itself(published, finished, small_chunks):
    published.faults = [Fault("GET /cdn/", cut=1000, times=1), Fault("GET /cdn/", cut=500, times=1)]
    folder = fetch(MODEL)
    assert ranges(published)[:3] == [None, "bytes=1000-", "bytes=1500-"]
    assert (folder / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()


def test_a_failed_download_goes_on_where_it_stopped_at_the_next_try(published, finished, small_chunks):
    published.faults = [Fault("GET /cdn/", cut=1000, times=1), Fault("GET /cdn/", cut=0)]
    assert "try again, the download resumes where it stopped" in refusal(fetch, MODEL)
    published.faults = []
    published.requests.clear()
    folder = fetch(MODEL)
    assert ranges(published)[0] == "bytes=1000-"
    assert contents(folder) == contents(finished)
    cached = [path.name for path in (folder.parent.parent / "blobs").iterdir()]
    assert not any("incomplete" in name for name in cached)


def test_the_client_alone_would_start_again(published, small_chunks):
    """The reason why `_download` collects the bytes itself."""
    published.faults = [Fault("GET /cdn/", cut=1000, times=1), Fault("GET /cdn/", cut=0)]
    with pytest.raises(Exception, match="peer closed connection"):
        hf_hub_download(REPO, WEIGHTS)
    published.faults = []
    published.requests.clear()
    hf_hub_download(REPO, WEIGHTS)
    assert ranges(published) == [None]


def test_the_token_stays_with_the_hub(published):
    """Large files come from another host, by addresses that are secret themselves."""
    fetch(MODEL)
    asked = {request.line.split("/")[1]: "authorization" in request.headers for request in published.requests}
    assert asked["cdn"] is False
    assert asked["me"] is True


# what goes wrong in a publication: one line, the repository as it was, and a second try succeeds


PUBLISHING_FAULTS = {
    "create": (Fault("POST /api/repos/create", status=500), "error 500: nothing was published, try again"),
    "validate": (Fault("POST /api/validate-yaml", status=500), "error 500"),
    "preupload": (Fault("POST .*/preupload/", status=500), "error 500: nothing was published, try again"),
    "batch": (Fault("POST .*/lfs/objects/batch", status=500), "error 500"),
    "upload": (Fault("PUT /lfs/", status=500), "error 500: nothing was published, try again"),
    "half of an upload": (Fault("PUT /lfs/", after=2000), "the connection to the Hub failed"),
    "verify": (Fault("POST /lfs/.*/verify", status=500), "error 500"),
    "refused upload": (Fault("PUT /lfs/", status=403), "refuses access"),
    "commit": (Fault("POST .*/commit/", status=500), "error 500"),
    "half of a commit": (Fault("POST .*/commit/", after=500), "the connection to the Hub failed"),
    "rate limit": (Fault("POST .*/commit/", status=429), "error 429: nothing was published, try again"),
    "wrong token": (Fault("POST /api/(repos|models)", status=401), "refuses access to me/tiny-waves: log in"),
    "answer that is none": (Fault("GET /api/models", body=b"<html>"), "the Hub answered me/tiny-waves"),
}


@pytest.mark.parametrize("name", PUBLISHING_FAULTS)
@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_a_fault_of_publishing_is_one_line_and_changes_nothing(hub, cache, finished, name, there):
    if there:
        publish_private(hub, {CONFIG: b"{}"})
    before = [*hub.repositories[REPO].commits] if there else []
    fault, told = PUBLISHING_FAULTS[name]
    hub.faults = [fault]
    assert told in refusal(publish, finished, REPO, private=True)
    commits = hub.repositories[REPO].commits if REPO in hub.repositories else []
    assert [commit for commit in commits if commit.title != "initial commit"] == before
    hub.faults = []
    publish(finished, REPO, private=True)
    cache()
    assert (fetch(MODEL) / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()


def publish_private(hub, files):
    return hub.add(REPO, files, private=True)


def test_a_silent_hub_is_not_waited_for_when_publishing(hub, finished, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    hub.faults = [Fault("POST /api/repos/create", wait_s=0.3)]
    assert "does not answer in time: nothing was published, try again" in refusal(publish, finished, REPO)


def test_a_passing_fault_of_the_storage_is_passed_over(hub, finished):
    hub.faults = [Fault("PUT /lfs/", status=500, times=2), Fault("POST .*/commit/", status=503, times=0)]
    publish(finished, REPO)
    assert len(hub.lines("PUT /lfs/")) == 5


@pytest.mark.parametrize("token", ["hf_wrong", "hf_other", ""])
def test_only_the_owner_publishes(hub, finished, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    told = refusal(publish, finished, REPO)
    assert "the Hub refuses access to me/tiny-waves: log in with `hf auth login`" in told
    assert hub.repositories == {}


def test_a_card_that_the_hub_refuses_is_told_before_anything_is_sent(hub, finished, monkeypatch):
    monkeypatch.setattr(module, "render", lambda *_: "---\ntags: one\n---\n")
    assert '"tags" must be an array' in refusal(publish, finished, REPO)
    assert hub.lines("PUT|/commit/") == []


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ("# no metadata", []),
        ("---\na: [\n---\n", ["invalid YAML"]),
        ("---\nlicense: mine\n---\n", ['"license" must be one of']),
        ("---\nmodel-index: not correct\n---\n", ['"model-index" must be an array']),
        ("---\nmodel-index:\n- name: a\n  results:\n  - metrics: []\n---\n", ["task.type", "dataset.name", "metrics"]),
    ],
)
def test_the_stand_in_judges_cards(hub, card, told):
    from huggingface_hub.utils import get_session

    answer = get_session().post(f"{hub.url}/api/validate-yaml", json={"content": card, "repoType": "model"})
    assert answer.status_code == (400 if told else 200)
    for text in told:
        assert any(text in error["message"] for error in answer.json()["errors"])
    assert bool(answer.json()["warnings"]) == (card == "# no metadata")
