"""A stand-in for the Hugging Face Hub: an HTTP server in this process that speaks the routes its real client calls.

Repositories live in memory: each is a list of commits, each commit a name -> bytes. As on the Hub, small text goes into
the commit itself and everything else by LFS, whose downloads are redirected to another host. There is no Xet.

Things go wrong on demand: `hub.faults.append(Fault("GET .*/resolve/", status=500))`.

This file is loaded as a plugin before anything imports `huggingface_hub`, which reads its environment only then: so no
test can reach the real Hub, nor a user's token and cache.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

LARGE = (".safetensors", ".png", ".ckpt", ".bin")  # what .gitattributes of a new repository gives to LFS
ERRORS = {  # as the Hub names them in X-Error-Code
    "RepoNotFound": "Repository not found",
    "RevisionNotFound": "Invalid rev id",
    "EntryNotFound": "Entry not found",
    "GatedRepo": "Access to this model is restricted",
}


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, changes: dict[str, bytes]) -> Commit:
        files = (self.commits[-1].files if self.commits else {}) | changes
        sha = hashlib.sha1(f"{len(self.commits)} {title} {sorted(files)} {time.time_ns()}".encode()).hexdigest()
        self.commits.append(Commit(sha, title, files))
        return self.commits[-1]

    def find(self, revision: str) -> Commit | None:
        sha = self.tags.get(revision, revision)
        if sha == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == sha), None)


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD /path" begins with the pattern, `times` times.

    Args:
        status: answer with this code at once. after: read only so much of what is sent, then hang up.
        cut: of the answer's body, send so many bytes, wait hold_s and hang up. wait_s: before the answer.
        body: send these bytes in place of the right ones. call: something to do before the answer.
    """

    pattern: str
    status: int | None = None
    after: int | None = None
    cut: int | None = None
    hold_s: float = 0
    wait_s: float = 0
    body: bytes | None = None
    call: Callable[[], Any] | None = None
    times: float = float("inf")


class Request(SimpleNamespace):
    """line: "METHOD /path". headers: lower-case name -> value. user: who asks. status: of the answer."""


class Hub:
    """The server and what it holds."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server.server_bind()  # reserves the port; until `start` it refuses connections
        self.server.handle_error = lambda *_: None  # a client may hang up
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.reset()

    def reset(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.tokens = {"hf_me": "me", "hf_other": "other", "hf_reader": "reader"}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []

    def start(self) -> None:
        self.server.server_activate()
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], **options: bool) -> Repository:
        """A repository that is already there, or one more commit of it."""
        repository = self.repositories.setdefault(repo_id, Repository(**options))
        repository.commit("Upload", files)
        self.large |= {_sha256(content): content for name, content in files.items() if name.endswith(LARGE)}
        return repository

    def lines(self, pattern: str = "") -> list[str]:
        """The requests so far whose "METHOD /path" the pattern finds, without those for the client's own ends."""
        return [r.line for r in self.requests if re.search(pattern, r.line) and "/api/agent-harnesses" not in r.line]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would hold each body back for 40 ms
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def _serve(self) -> None:
        hub: Hub = self.server.hub
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        line = f"{self.command} {urllib.parse.unquote(url.path)}"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.user = hub.tokens.get(token)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_record = Request(line=line, headers=headers, user=self.user, status=None)
        hub.requests.append(self.request_record)
        self.fault = next((f for f in hub.faults if f.times > 0 and re.match(f.pattern, line)), Fault(""))
        self.fault.times -= 1
        if self.fault.after is not None:
            self.rfile.read(min(self.fault.after, int(self.headers.get("Content-Length") or 0)))
            return self._hang_up()
        self.body = self._read_body()
        if self.fault.call:
            self.fault.call()
        time.sleep(self.fault.wait_s)
        if self.fault.status:
            return self._send(self.fault.status, {"error": "a fault"})
        if token and not self.user:
            return self._fail(401, "", "Invalid credentials in Authorization header")
        for pattern, route in _ROUTES:
            if match := re.fullmatch(pattern, line):
                return route(self, hub, *match.groups())
        self._send(404, {"error": f"no route {line}"})

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        if self.fault.body is not None and self.command == "GET":
            body = self.fault.body
        self.request_record.status = status
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: self.fault.cut])
        if self.fault.cut is not None and self.fault.cut < len(body):
            time.sleep(self.fault.hold_s)
            self._hang_up()

    def _fail(self, status: int, code: str, message: str = "") -> None:
        message = message or ERRORS[code]
        self._send(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    def _repository(self, hub: Hub, repo_id: str) -> Repository | None:
        """The repository if the user may know of it, or None after an answer that says no."""
        repository = hub.repositories.get(repo_id)
        if repository and not (repository.private and self.user != repo_id.split("/")[0]):
            return repository
        return self._fail(404 if self.user else 401, "RepoNotFound")

    def _commit_of(self, hub: Hub, repo_id: str, revision: str) -> tuple[Repository, Commit] | None:
        if not (repository := self._repository(hub, repo_id)):
            return None
        commit = repository.find(revision)
        return (repository, commit) if commit else self._fail(404, "RevisionNotFound")

    def _may_write(self, repo_id: str) -> bool:
        if self.user == repo_id.split("/")[0]:
            return True
        self._fail(403 if self.user else 401, "", "You have no right to write to this repository")
        return False

    # the routes

    def _who(self, hub: Hub) -> None:
        if self.user:
            return self._send(200, {"type": "user", "name": self.user, "orgs": [], "auth": {}})
        self._fail(401, "", "Invalid username or password.")

    def _validate(self, hub: Hub) -> None:
        errors, warnings = judge_card(json.loads(self.body)["content"])
        self._send(400 if errors else 200, {"errors": _messages(errors), "warnings": _messages(warnings)})

    def _create(self, hub: Hub) -> None:
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        if not self._may_write(repo_id):
            return
        answer = {"url": f"{hub.url}/{repo_id}", "name": repo_id}
        if repo_id in hub.repositories:
            return self._send(409, answer | {"error": "You already created this model repo"})
        repository = hub.repositories[repo_id] = Repository(private=wanted.get("visibility") == "private")
        repository.commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send(200, answer)

    def _preupload(self, hub: Hub, repo_id: str, revision: str) -> None:
        if not (found := self._commit_of(hub, repo_id, revision)) or not self._may_write(repo_id):
            return
        files = []
        for file in json.loads(self.body)["files"]:
            path, held = file["path"], found[1].files.get(file["path"])
            mode = "lfs" if path.endswith(LARGE) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": held and _oid(path, held)})
        self._send(200, {"files": files})

    def _batch(self, hub: Hub, repo_id: str) -> None:
        if not self._may_write(repo_id):
            return
        objects = json.loads(self.body)["objects"]
        for entry in objects:
            if entry["oid"] not in hub.large:
                target = f"{hub.url}/lfs/{entry['oid']}"
                entry["actions"] = {"upload": {"href": target}, "verify": {"href": f"{target}/verify"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put(self, hub: Hub, oid: str) -> None:
        if _sha256(self.body) != oid:
            return self._send(422, {"error": "wrong checksum"})
        hub.large[oid] = self.body
        self._send(200)

    def _verify(self, hub: Hub, oid: str) -> None:
        wanted = json.loads(self.body)
        held = hub.large.get(oid)
        self._send(200 if held is not None and len(held) == wanted["size"] else 404, {})

    def _commit(self, hub: Hub, repo_id: str, revision: str) -> None:
        if not (found := self._commit_of(hub, repo_id, revision)) or not self._may_write(repo_id):
            return
        title, changes = "", {}
        for part in map(json.loads, self.body.splitlines()):
            value = part["value"]
            if part["key"] == "header":
                title = value["summary"]
            elif part["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                changes[value["path"]] = hub.large[value["oid"]]
        if "README.md" in changes and (errors := judge_card(changes["README.md"].decode())[0]):
            return self._send(400, {"error": errors[0]})
        commit = found[0].commit(title, changes)
        url = f"{hub.url}/{repo_id}/commit/{commit.sha}"
        self._send(200, {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def _info(self, hub: Hub, repo_id: str, revision: str | None) -> None:
        if not (found := self._commit_of(hub, repo_id, revision or "main")):
            return
        repository, commit = found
        siblings = []
        for name, content in commit.files.items():
            details = {"rfilename": name, "size": len(content), "blobId": _git(content)}
            if name.endswith(LARGE):
                details["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
            siblings.append(details if "blobs" in self.query else {"rfilename": name})
        about = {"id": repo_id, "sha": commit.sha, "private": repository.private, "gated": repository.gated}
        self._send(200, about | {"tags": [], "siblings": siblings})

    def _tree(self, hub: Hub, repo_id: str, revision: str) -> None:
        if found := self._commit_of(hub, repo_id, revision):
            self._send(200, [_tree_entry(*file) for file in found[1].files.items()])

    def _paths(self, hub: Hub, repo_id: str, revision: str) -> None:
        if found := self._commit_of(hub, repo_id, revision):
            wanted = json.loads(self.body)["paths"]
            self._send(200, [_tree_entry(*file) for file in found[1].files.items() if file[0] in wanted])

    def _refs(self, hub: Hub, repo_id: str) -> None:
        if repository := self._repository(hub, repo_id):
            named = {"branches": {"main": repository.commits[-1].sha}, "tags": repository.tags, "converts": {}}
            kinds = {"branches": "heads"}
            self._send(
                200,
                {
                    kind: [
                        {"name": name, "ref": f"refs/{kinds.get(kind, kind)}/{name}", "targetCommit": sha}
                        for name, sha in refs.items()
                    ]
                    for kind, refs in named.items()
                },
            )

    def _tag(self, hub: Hub, repo_id: str, revision: str) -> None:
        if (found := self._commit_of(hub, repo_id, revision)) and self._may_write(repo_id):
            found[0].tags[json.loads(self.body)["tag"]] = found[1].sha
            self._send(200, {})

    def _resolve(self, hub: Hub, repo_id: str, revision: str, path: str) -> None:
        if not (found := self._commit_of(hub, repo_id, revision)):
            return
        repository, commit = found
        if repository.gated and self.user != repo_id.split("/")[0]:
            return self._fail(403, "GatedRepo")
        content = commit.files.get(path)
        if content is None:
            return self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit.sha)
        about = {"X_Repo_Commit": commit.sha, "ETag": f'"{_oid(path, content)}"'}
        if not path.endswith(LARGE):
            return self._send_file(content, about)
        about |= {"X_Linked_Size": str(len(content)), "X_Linked_Etag": about["ETag"]}
        place = f"{hub.url.replace('127.0.0.1', 'localhost')}/cdn/{_sha256(content)}"
        self._send(302, Location=place, **about)

    def _cdn(self, hub: Hub, oid: str) -> None:
        self._send_file(hub.large[oid], {"ETag": '"a checksum of its own"'})

    def _send_file(self, content: bytes, about: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        about |= {"Accept_Ranges": "bytes", "Content_Type": "application/octet-stream"}
        if not wanted:
            return self._send(200, content, **about)
        start = int(wanted[1])
        if start >= len(content):
            return self._send(416, Content_Range=f"bytes */{len(content)}")
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], Content_Range=span, **about)


_ID, _REVISION = r"([^/]+/[^/]+)", r"([^/]+(?:/[^/]+)*?)"
_ROUTES = [
    (r"GET /api/whoami-v2", _Handler._who),
    (r"POST /api/validate-yaml", _Handler._validate),
    (r"POST /api/repos/create", _Handler._create),
    (rf"POST /api/models/{_ID}/preupload/{_REVISION}", _Handler._preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"PUT /lfs/(\w+)", _Handler._put),
    (r"POST /lfs/(\w+)/verify", _Handler._verify),
    (rf"POST /api/models/{_ID}/commit/{_REVISION}", _Handler._commit),
    (rf"GET /api/models/{_ID}/tree/{_REVISION}", _Handler._tree),
    (rf"POST /api/models/{_ID}/paths-info/{_REVISION}", _Handler._paths),
    (rf"GET /api/models/{_ID}/refs", _Handler._refs),
    (rf"POST /api/models/{_ID}/tag/{_REVISION}", _Handler._tag),
    (rf"GET /api/models/{_ID}(?:/revision/{_REVISION})?", _Handler._info),
    (rf"(?:GET|HEAD) /{_ID}/resolve/{_REVISION}/([^/]+)", _Handler._resolve),
    (r"(?:GET|HEAD) /cdn/(\w+)", _Handler._cdn),
]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(path: str, content: bytes) -> str:
    return _sha256(content) if path.endswith(LARGE) else _git(content)


def _messages(texts: list[str]) -> list[dict[str, str]]:
    return [{"message": text} for text in texts]


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git(content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "openrail", "other", "unknown"}  # of the Hub's many
TASKS = {
    "unconditional-image-generation",
    "image-classification",
    "reinforcement-learning",
    "other",
    "text-generation",
    "time-series-forecasting",
}


def judge_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about the metadata of a card, in the Hub's words where they are known."""
    match = re.match(r"\s*---\s*\n(.*?)\n---\s*(?:\n|$)", content, re.DOTALL)
    if not match:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"], []
    if not isinstance(data, dict):
        return ["the metadata must be an object"], []
    errors = [f'"{key}" must be an array' for key in ("tags", "datasets") if not _texts(data.get(key, []))]
    errors += [f'"{key}" must be a string' for key in ("library_name",) if not isinstance(data.get(key, ""), str)]
    for key, known in (("license", LICENSES), ("pipeline_tag", TASKS)):
        if key in data and data[key] not in known:
            errors.append(f'"{key}" must be one of [{", ".join(sorted(known))}]')
    index = data.get("model-index", [])
    if not isinstance(index, list):
        return [*errors, '"model-index" must be an array'], []
    for i, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"model-index[{i}].name" is required')
            continue
        for j, result in enumerate(model.get("results") or [{}]):
            where = f"model-index[{i}].results[{j}]"
            if not isinstance(result.get("task", {}).get("type"), str):
                errors.append(f'"{where}.task.type" is required')
            if not {"name", "type"} <= result.get("dataset", {}).keys():
                errors.append(f'"{where}.dataset.name" and "type" are required')
            if not result.get("metrics"):
                errors.append(f'"{where}.metrics" is required')
            for metric in result.get("metrics", []):
                if not isinstance(metric.get("type"), str) or "value" not in metric:
                    errors.append(f'"{where}.metrics" must have "type" and "value"')
    return errors, []


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


HUB = Hub()
HOME = tempfile.mkdtemp(prefix="hub-home-")
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": HOME,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
    os.environ.pop(name, None)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def _hub_server():
    HUB.start()
    yield HUB
    HUB.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A fresh cache of the Hub; cache() makes another one, as on another machine."""
    from huggingface_hub import constants

    places = iter(range(1000))

    def fresh():
        place = tmp_path / f"cache-{next(places)}"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
        return place

    fresh()
    return fresh


@pytest.fixture
def hub(_hub_server, cache, monkeypatch):
    """The stand-in Hub, empty, with "me" logged in and a fresh cache; the client does not wait between its tries."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    impatient = SimpleNamespace(sleep=lambda _: None, time=time.time, monotonic=time.monotonic)
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", impatient)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    _hub_server.reset()
    return _hub_server
