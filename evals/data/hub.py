"""A data set on the Hugging Face hub: what it is, and a copy of it in the hub's cache on this machine. No torch.

huggingface_hub keeps the files that it has fetched whole, and begins the others anew when it was killed (since its
pull request 4228). Archives of videos have gigabytes: they are fetched here, into the place where it looks for them,
and go on where they were.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videonsa.disk import require_room, writing

SECONDS = 20.0  # that the hub has to answer what it is asked about a data set
LARGE = 16 << 20  # bytes from which a file goes on
STREAMS = 4  # files at once
SHA256 = 64  # digits
BEGUN = ".begun"  # ends the name of a file that is not whole yet


@dataclass(frozen=True)
class Listing:
    """What the hub says of a data set now."""

    revision: str
    licence: str | None
    gated: bool
    files: int
    size: int  # bytes
    here: int  # bytes of files that the cache has whole


def listing(repo: str) -> Listing:
    """Ask the hub. Raises what huggingface_hub raises: it is away, there is no such data set, a login is needed."""
    info = _info(repo)
    sizes, absent = _sizes(info), _absent(repo, info)
    licence = info.card_data.get("license") if info.card_data else None
    size = sum(sizes.values())
    return Listing(str(info.sha), licence, bool(info.gated), len(sizes), size, size - sum(absent.values()))


def fetch(repo: str) -> Path:
    """The whole repository at its newest revision; what is here stays, and a large file that was begun goes on.

    One process at a time may do so. Raises what huggingface_hub raises, or DiskError.
    """
    from huggingface_hub import constants, snapshot_download

    info = _info(repo)
    absent, begun = _absent(repo, info), sum(file.stat().st_size for file in cache_of(repo).glob(f"blobs/*{BEGUN}"))
    require_room(cache_of(repo), sum(absent.values()) - begun)
    most = constants.MAX_HTTP_DOWNLOAD_SIZE  # larger ones take another way, which snapshot_download knows
    large = [name for name, size in absent.items() if LARGE <= size <= most]
    with ThreadPoolExecutor(STREAMS) as pool:
        for _ in pool.map(lambda name: _fetch_large(repo, str(info.sha), name), large):
            pass
    return Path(snapshot_download(repo, repo_type="dataset", etag_timeout=60))


def _info(repo: str) -> Any:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(repo, files_metadata=True, timeout=SECONDS)


def _sizes(info: Any) -> dict[str, int]:
    """Bytes by file of the repository."""
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _absent(repo: str, info: Any) -> dict[str, int]:
    """Those that the cache does not have whole."""
    from huggingface_hub import try_to_load_from_cache

    def is_here(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repo, name, revision=info.sha, repo_type="dataset"), str)

    return {name: size for name, size in _sizes(info).items() if not is_here(name)}


def _fetch_large(repo: str, revision: str, name: str) -> None:
    """Into the hub's cache, under the name by which it knows the content: of a large file that is its SHA-256.

    Raises OSError where what was begun and gone on with is other content, of a disk that lost some: it is thrown away.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    file = get_hf_file_metadata(hf_hub_url(repo, name, repo_type="dataset", revision=revision), headers=headers)
    blob = cache_of(repo) / "blobs" / str(file.etag)
    begun = blob.with_name(blob.name + BEGUN)
    if blob.exists():
        return
    with writing(begun, file.size):
        blob.parent.mkdir(parents=True, exist_ok=True)
        with open(begun, "ab") as stream:
            goes_on = stream.tell() > 0
            if file.size is not None and stream.tell() > file.size:
                stream.truncate(stream.seek(0))
            http_get(
                *(file.location, stream),
                resume_size=stream.tell(),
                headers=headers,
                expected_size=file.size,
                displayed_filename=name,
            )
        if goes_on and len(blob.name) == SHA256 and _sha256(begun) != blob.name:
            begun.unlink()
            raise OSError(f"{name} was begun with other content than the hub has: it is fetched anew the next time")
        os.replace(begun, blob)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetched(repo: str) -> Path | None:
    """The copy that is here, perhaps not whole; None where there is none. Asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def cache_of(repo: str) -> Path:
    """Where the copy lies, or will lie."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="dataset")
