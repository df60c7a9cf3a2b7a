"""A data set on the Hugging Face hub: what it is, and a copy of it in the hub's cache on this machine. No torch.

huggingface_hub keeps the files that it has fetched whole, and begins the others anew when it was killed (since its
pull request 4228). Archives of videos have gigabytes: they are fetched here, into the place where it looks for them,
and go on where they were.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from videonsa.disk import writing

SECONDS = 20.0  # that the hub has to answer what it is asked about a data set
LARGE = 16 << 20  # bytes from which a file goes on
STREAMS = 4  # files at once


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
    from huggingface_hub import HfApi, try_to_load_from_cache

    info = HfApi().dataset_info(repo, files_metadata=True, timeout=SECONDS)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    here = (
        size
        for file, size in files.items()
        if isinstance(try_to_load_from_cache(repo, file, revision=info.sha, repo_type="dataset"), str)
    )
    licence = info.card_data.get("license") if info.card_data else None
    return Listing(str(info.sha), licence, bool(info.gated), len(files), sum(files.values()), sum(here))


def fetch(repo: str) -> Path:
    """The whole repository at its newest revision; what is here stays, and a large file that was begun goes on.

    One process at a time may do so. Raises what huggingface_hub raises, or DiskError.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    info = HfApi().dataset_info(repo, files_metadata=True, timeout=SECONDS)
    most = constants.MAX_HTTP_DOWNLOAD_SIZE  # larger ones take another way, which snapshot_download knows
    large = [file.rfilename for file in info.siblings or () if LARGE <= (file.size or 0) <= most]
    with ThreadPoolExecutor(STREAMS) as pool:
        for _ in pool.map(lambda name: _fetch_large(repo, str(info.sha), name), large):
            pass
    return Path(snapshot_download(repo, repo_type="dataset", etag_timeout=60))


def _fetch_large(repo: str, revision: str, name: str) -> None:
    """Into the hub's cache, under the name by which it knows the content."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers()
    file = get_hf_file_metadata(hf_hub_url(repo, name, repo_type="dataset", revision=revision), headers=headers)
    blob = cache_of(repo) / "blobs" / str(file.etag)
    begun = blob.with_name(f"{blob.name}.begun")
    if blob.exists():
        return
    with writing(begun, file.size):
        blob.parent.mkdir(parents=True, exist_ok=True)
        with open(begun, "ab") as stream:
            http_get(
                *(file.location, stream),
                resume_size=stream.tell(),
                headers=headers,
                expected_size=file.size,
                displayed_filename=name,
            )
        os.replace(begun, blob)


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
