"""The Hugging Face Hub: model folders as repositories. The one file that speaks to the network.

Only the files named in FILES are ever fetched or sent, by these names: what else a repository holds is not looked at,
so no name in it can lead out of the folder. Every fetched file is checked against the checksum of its commit.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, validate_repo_id  # type: ignore[attr-defined]

from checkpoints.catalogue import CONFIG, PREFIX, REFERENCE, RESULTS, WEIGHTS
from zoo.errors import UserError

FILES = (CONFIG, WEIGHTS, RESULTS, REFERENCE, "README.md", "train.yaml", "samples.png")
NEEDED = (CONFIG, WEIGHTS)
LARGEST_BYTES = {WEIGHTS: 2**33, REFERENCE: 2**28}  # 8 GiB of weights; everything else at most 16 MiB
REVISION = re.compile(r"[\w][\w./-]{0,199}")


class Unreachable(UserError):
    """The Hub does not answer, or may not be asked; the next try may succeed."""


def parse(model: str) -> tuple[str, str]:
    """hf://owner/repo[@revision] -> (owner/repo, revision), "main" if none is given.

    Raises:
        UserError: if it is not of that form.
    """
    repo_id, _, revision = model.removeprefix(PREFIX).partition("@")
    revision = revision or "main"
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id = ""
    if repo_id.count("/") != 1 or ".." in revision or not REVISION.fullmatch(revision):
        raise UserError(f"{model!r} is not of the form {PREFIX}owner/repo or {PREFIX}owner/repo@revision")
    return repo_id, revision


def fetch(model: str) -> Path:
    """The folder of hf://owner/repo[@revision] in the Hub's cache, downloaded as far as it is not there yet.

    Without a network, what the cache has is used. A download that was cut goes on where it stopped.

    Raises:
        UserError: in one line, for everything that can go wrong; a second try starts clean.
    """
    repo_id, revision = parse(model)
    try:
        with _explained(repo_id):
            info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    except Unreachable as error:
        return _cached(repo_id, revision, error)
    files = {entry.rfilename: entry for entry in info.siblings or [] if entry.rfilename in FILES}
    for name in NEEDED:
        if name not in files:
            raise UserError(f"{model!r} is not a model of this project: {name} is missing there")
    for name, entry in files.items():
        if (entry.size or 0) > LARGEST_BYTES.get(name, 2**24):
            raise UserError(f"{model!r}: {name} has {entry.size:,} bytes, more than is accepted")
    folder = None
    for name, entry in files.items():
        try:
            with _explained(repo_id):
                path = Path(hf_hub_download(repo_id, name, revision=revision))
        except Unreachable as error:
            raise UserError(f"{error}: try again, the download goes on where it stopped") from None
        if path.parent.name != info.sha:
            raise UserError(f"{model!r} changed while it was downloaded: try again")
        _check(path, entry)
        folder = path.parent
    assert folder is not None
    return folder


def publish(folder: Path, repo_id: str, *, private: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Sends a model folder to the Hub in one commit; creates the repository if it is not there.

    Args:
        folder: a model folder with its card. repo_id: owner/name. private: of a new repository.
        dry_run: only list what would be sent; nothing is asked of the Hub.

    Returns:
        {"url", "commit"}; for a dry run {"url", "commit": None, "files": {name: bytes}}.

    Raises:
        UserError: in one line; the repository then holds what it held before.
    """
    parse(PREFIX + repo_id)
    files = [folder / name for name in FILES if (folder / name).is_file()]
    missing = {*NEEDED, "README.md"} - {path.name for path in files}
    if missing:
        raise UserError(f"{folder} cannot be published without {min(missing)}: write it with `evaluate --update`")
    api = HfApi()
    if dry_run:
        sizes = {path.name: path.stat().st_size for path in files}
        return {"url": f"{api.endpoint}/{repo_id}", "commit": None, "files": sizes}
    try:
        return _commit(api, folder, repo_id, files, private)
    except Unreachable as error:
        raise UserError(f"{error}: nothing was published, try again") from None


def _commit(api: HfApi, folder: Path, repo_id: str, files: list[Path], private: bool) -> dict[str, Any]:
    with _explained(repo_id):
        ModelCard.load(folder / "README.md").validate(repo_type="model")
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files]
        commit = api.create_commit(repo_id, operations, commit_message=f"Publish {folder.resolve().name}")
    return {"url": f"{api.endpoint}/{repo_id}", "commit": commit.oid}


def _cached(repo_id: str, revision: str, reason: Unreachable) -> Path:
    folder = None
    for name in FILES:
        try:
            folder = Path(hf_hub_download(repo_id, name, revision=revision, local_files_only=True)).parent
        except EntryNotFoundError:
            if name in NEEDED:
                raise UserError(f"{reason}, and {repo_id}@{revision} is not in the cache: try again online") from None
    assert folder is not None
    return folder


def _check(path: Path, entry: Any) -> None:
    """Compares a file with its checksum in the commit; a wrong one is removed, so that a second try fetches it anew."""
    content = path.read_bytes()
    if entry.lfs is not None:
        right = hashlib.sha256(content).hexdigest() == entry.lfs.sha256
    else:
        right = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry.blob_id
    if not right:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise UserError(f"{entry.rfilename} arrived damaged (wrong checksum) and was removed: try again")


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into one line that says the fix."""

    def fail(text: str, kind: Callable[[str], UserError] = UserError) -> NoReturn:
        raise kind(text) from None

    try:
        yield
    except GatedRepoError:
        fail(f"{repo_id} is gated: ask for access on its page, then log in with `hf auth login`")
    except RepositoryNotFoundError:
        fail(f"there is no repository {repo_id}, or it is private: check the name, or log in with `hf auth login`")
    except RevisionNotFoundError:
        fail(f"{repo_id} has no such revision: name a branch, a tag or a commit of it")
    except LocalTokenNotFoundError:
        fail("no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            fail(f"the Hub refuses access to {repo_id}: log in with `hf auth login`, with a token that may do this")
        fail(f"the Hub answered {repo_id} with error {status}", Unreachable if status >= 500 else UserError)
    except OfflineModeIsEnabled:
        fail("the Hub may not be asked (HF_HUB_OFFLINE is set)", Unreachable)
    except EntryNotFoundError as error:
        fail(f"{repo_id} could not be fetched in full ({type(error.__cause__ or error).__name__})", Unreachable)
    except (httpx.HTTPError, OSError) as error:
        fail(f"the connection to the Hub failed ({type(error).__name__})", Unreachable)
    except ValueError as error:  # the Hub's judgement of a card
        fail(f"{repo_id}: {str(error).splitlines()[0]}")
