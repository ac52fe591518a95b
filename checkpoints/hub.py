"""The Hugging Face Hub: model folders as repositories. The one file that speaks to the network.

Only the files named in FILES are ever fetched or sent, by these names: what else a repository holds is not looked at,
so no name in it can lead out of the folder. Every fetched file is checked against the checksum of its commit.
"""

import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    httpx,
    validate_repo_id,
)

from checkpoints.card import render
from checkpoints.catalogue import CARD, CONFIG, FILES, PREFIX, REFERENCE, WEIGHTS
from zoo.errors import UserError

NEEDED = (CONFIG, WEIGHTS)
LARGEST_BYTES = {WEIGHTS: 2**33, REFERENCE: 2**28}  # 8 GiB of weights; everything else at most 16 MiB
CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 of git, SHA-256 of large files
REVISION = re.compile(r"[\w][\w./-]{0,199}")
TIMEOUT_S = 60  # without an answer; the client's own is endless


class Unreachable(UserError):
    """The Hub does not answer, or may not be asked; the next try may succeed."""


def parse(model: str) -> tuple[str, str]:
    """hf://owner/repo[@revision] -> (owner/repo, revision), "main" if none is given.

    Raises:
        UserError: if it is not of that form.
    """
    repo_id, at, revision = model.removeprefix(PREFIX).partition("@")
    revision = revision if at else "main"
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id = ""
    if repo_id.count("/") != 1 or ".." in revision or not REVISION.fullmatch(revision):
        raise UserError(f"{model!r} is not of the form {PREFIX}owner/repo or {PREFIX}owner/repo@revision")
    return repo_id, revision


def fetch(model: str, *, token: str | bool | None = None, local_files_only: bool = False) -> Path:
    """The folder of hf://owner/repo[@revision] in the Hub's cache, downloaded as far as it is not there yet.

    Without a network, what the cache has is used. A download that was cut resumes where it stopped.

    Args:
        model: hf://owner/repo[@revision].
        token: as everywhere in huggingface_hub: by default the one that is logged in, False for none.
        local_files_only: do not ask the Hub; use the cache.

    Raises:
        UserError: in one line, for everything that can go wrong; trying again is safe.
    """
    repo_id, revision = parse(model)
    if local_files_only:
        return _cached(repo_id, revision, Unreachable("the Hub may not be asked (local_files_only is set)"))
    try:
        with _explained(repo_id):
            info = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    except Unreachable as error:
        return _cached(repo_id, revision, error)
    files = {entry.rfilename: entry for entry in info.siblings or [] if entry.rfilename in FILES}
    for name in NEEDED:
        if name not in files:
            raise UserError(f"{model!r} is not a model of this project: {name} is missing there")
    for name, entry in files.items():
        if entry.size is None or entry.size > LARGEST_BYTES.get(name, 2**24):
            raise UserError(f"{model!r}: {name} has {entry.size} bytes, which is not accepted")
    try:
        with _explained(repo_id):
            try:
                folder = _download(repo_id, str(info.sha), files.values(), token)
            except RevisionNotFoundError:
                raise UserError(f"{model!r} changed while it was downloaded: try again") from None
    except Unreachable as error:
        raise UserError(f"{error}: try again, the download resumes where it stopped") from None
    if revision != info.sha:  # for the time when there is no network
        _write(_cache(repo_id) / "refs" / revision, str(info.sha))
    return folder


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    commit_message: str | None = None,
) -> dict[str, Any]:
    """Sends a model folder to the Hub in one commit; creates the repository if it is not there.

    The card is written anew, so that it says how to load the model from there.

    Args:
        folder: a model folder with its results. repo_id: owner/name. private: of a new repository.
        dry_run: only list what would be sent; nothing is asked of the Hub.
        token: as for `fetch`. commit_message: of the one commit; by default "Publish" and the repository.

    Returns:
        {"url", "commit"}; for a dry run {"url", "commit": None, "files": {name: bytes}}.

    Raises:
        UserError: in one line; the repository then holds what it held before.
    """
    if "@" in repo_id:
        raise UserError(f"a model is published as the newest revision of OWNER/NAME, got {repo_id!r}")
    parse(PREFIX + repo_id)
    card = render(folder, PREFIX + repo_id)
    contents = {name: folder / name for name in FILES if (folder / name).is_file()} | {CARD: card.encode()}
    for name in contents:  # a link in an untrusted folder would upload one of the user's own files
        if (folder / name).is_symlink() and Path(constants.HF_HUB_CACHE).resolve() not in folder.resolve().parents:
            raise UserError(f"{folder / name} is a link: put the file itself there to publish it")
    api = HfApi(token=token)
    url = f"{api.endpoint}/{repo_id}"
    if dry_run:
        sizes = {name: len(it) if isinstance(it, bytes) else it.stat().st_size for name, it in contents.items()}
        return {"url": url, "commit": None, "files": sizes}
    try:
        with _explained(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            if private and not api.model_info(repo_id).private:
                raise UserError(f"{repo_id} is there already, and public: change that on its page, or omit --private")
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=it) for name, it in contents.items()]
            message = commit_message or f"Publish {repo_id}"
            commit = api.create_commit(repo_id, operations, commit_message=message)
    except Unreachable as error:
        raise UserError(f"{error}: nothing was published, try again") from None
    return {"url": url, "commit": commit.oid}


def _cache(repo_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")


def _download(repo_id: str, commit: str, entries: Iterable[Any], token: str | bool | None) -> Path:
    """Brings files of a commit into the Hub's cache; returns the folder that they lie in there.

    This is the client's own layout: blobs/<checksum>, and links to them in snapshots/<commit>. The client itself throws
    away what a broken download has brought, and takes a blob's name from the server's answer, wherever that leads. Here
    a file is named by the checksum that was listed, grows over as many tries as it takes, and counts when it is whole.
    """
    cache = _cache(repo_id)
    folder = cache / "snapshots" / commit
    for entry in entries:
        name, checksum = entry.rfilename, entry.lfs.sha256 if entry.lfs else entry.blob_id
        if not CHECKSUM.fullmatch(checksum or "") or not CHECKSUM.fullmatch(commit):
            raise UserError(f"{repo_id} lists no checksum for {name}: nothing was downloaded")
        blob, lock = cache / "blobs" / checksum, cache.parent / ".locks" / cache.name / f"{checksum}.lock"
        for parent in (blob.parent, lock.parent, folder):
            parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not (folder / name).exists():
                if not blob.exists():
                    _complete(blob, checksum, entry.size, hf_hub_url(repo_id, name, revision=commit), token)
                _link(folder / name, blob)
            if not _is_right(folder / name, checksum):
                (folder / name).resolve().unlink()
                (folder / name).unlink(missing_ok=True)
                raise UserError(f"{name} of {repo_id} was damaged in {cache} and was removed: try again")
    return folder


def _complete(blob: Path, checksum: str, size: int, url: str, token: str | bool | None) -> None:
    """Downloads a file, going on with what an earlier try has left."""
    part = blob.with_name(f"{checksum}.incomplete")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    while not blob.exists():
        with part.open("ab") as file:
            begun = file.tell()
            http_get(url, file, resume_size=begun, headers=build_hf_headers(token=token), expected_size=size)
        if _is_right(part, checksum):
            os.replace(part, blob)
        else:  # perhaps only what the earlier try has left
            part.unlink()
            if not begun:
                raise UserError(f"{url} arrived damaged (wrong checksum) and was removed: try again")


def _link(path: Path, blob: Path) -> None:
    path.unlink(missing_ok=True)  # a link to a blob that is gone
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:  # where there are no links, the client's cache has whole files
        shutil.copyfile(blob, temporary := path.with_name(f".{path.name}"))
        os.replace(temporary, path)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(text)
        os.replace(temporary, path)


def _is_right(path: Path, checksum: str) -> bool:
    """Whether a file has its checksum: SHA-256, or for a small file the shorter one of git."""
    with path.open("rb") as file:
        if len(checksum) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == checksum
        header = b"blob %d\0" % path.stat().st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest() == checksum


def _cached(repo_id: str, revision: str, reason: Unreachable) -> Path:
    found = {name: try_to_load_from_cache(repo_id, name, revision=revision) for name in NEEDED}
    for name, path in found.items():
        if not isinstance(path, str):
            raise UserError(f"{reason}, and the cache does not hold {name} of {repo_id}@{revision}: try again online")
    return Path(str(found[CONFIG])).parent


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into one line that says the fix, and keeps it from saying more by itself.

    Progress bars are for terminals only.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    undecided = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    if hide := undecided and not sys.stderr.isatty():
        disable_progress_bars()
    get_session().timeout = TIMEOUT_S
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not (explanation := _explain(repo_id, error)):
            raise
        raise explanation from None
    finally:
        logger.setLevel(level)
        if hide:
            enable_progress_bars()


def _explain(repo_id: str, error: Exception) -> UserError | None:
    log_in = "log in with `hf auth login`"
    match error:
        case GatedRepoError():
            return UserError(f"{repo_id} is gated: ask for access on its page, then {log_in}")
        case RepositoryNotFoundError():
            return UserError(f"there is no repository {repo_id}, or it is private: check the name, or {log_in}")
        case RevisionNotFoundError():
            return UserError(f"{repo_id} has no such revision: name a branch, a tag or a commit of it")
        case LocalTokenNotFoundError():
            return UserError(f"there is no token for the Hub: {log_in}, or set HF_TOKEN")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return UserError(f"the Hub refuses access to {repo_id}: {log_in}, with a token that may do this")
        case HfHubHTTPError():
            status = error.response.status_code
            kind = Unreachable if status >= 500 or status in (404, 408, 416, 429) else UserError
            return kind(f"the Hub answered {repo_id} with error {status}")
        case OfflineModeIsEnabled():
            return Unreachable("the Hub may not be asked (HF_HUB_OFFLINE is set)")
        case httpx.TimeoutException():
            return Unreachable("the Hub does not answer in time")
        case OSError(errno=int(), strerror=str()):
            return UserError(f"{error.filename or constants.HF_HUB_CACHE}: {error.strerror}")
        case httpx.HTTPError() | OSError():
            return Unreachable(f"the connection to the Hub failed ({type(error).__name__})")
        case ValueError():  # its judgement of a card, or an answer that is not JSON
            return UserError(f"the Hub answered {repo_id}: {' '.join(str(error).split())[:300]}")
        case RuntimeError(__cause__=Exception() as cause):  # of one upload among several
            return _explain(repo_id, cause)
    return None
