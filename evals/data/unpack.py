"""Archives of videos, unpacked so that being killed costs nothing: what is there is whole, and the next run goes on.

Zip files, tar files (also gzipped), and tar files in pieces, "x.tar.part00" ... or "x_1.tar.gz", "x_2.tar.gz" ...:
a piece that does not begin as an archive continues the one before it. Pieces are read where they lie; lmms-eval
writes them into one file first, and takes a folder that was begun for one that is complete.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from evals.data.files import files_below
from evals.suites import MEDIA
from videonsa.config import SettingsError
from videonsa.disk import require_room, writing

NOTE = ".unpacked.json"  # in the folder: the archives that were unpacked, and the files that came out of them
BEGUN = ".unpacking"  # ends the name of a folder that is not whole yet
PACKED = re.compile(r".*\.(zip|tgz|tar|tar\.[^.]+(\.[^.]+)?)", re.IGNORECASE)


def archives(folder: Path) -> list[list[Path]]:
    """Archives below a folder, each as its pieces, in the order of their names with numbers as numbers."""
    found: list[list[Path]] = []
    for path in sorted(filter(_is_packed, files_below(folder)), key=_natural):
        if path.suffix.lower() == ".zip" or _begins(path) or not found or found[-1][0].parent != path.parent:
            found.append([path])
        else:
            found[-1].append(path)
    return found


def unpack(source: Path, folder: Path) -> int:
    """Unpack all archives below `source` into `folder`, which is there once it is whole, or is filled where it is.

    Returns how many files were written. Raises SettingsError for an archive that is damaged, or that wants to write
    elsewhere; DiskError where the disk has no room.
    """
    packed = archives(source)
    holds = {str(pieces[0].relative_to(source)): sum(piece.stat().st_size for piece in pieces) for pieces in packed}
    if not packed or _is_whole(folder, holds):
        return 0
    place = folder if folder.exists() else folder.with_name(folder.name + BEGUN)
    require_room(place, sum(holds.values()) - _bytes_in(place))
    files: dict[str, int] = {}
    written = sum(_unpack_one(pieces, place, files) for pieces in packed)
    with writing(place):
        note = {"archives": holds, "files": files}
        (place / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        if place != folder:
            os.rename(place, folder)
    return written


def _unpack_one(pieces: list[Path], folder: Path, files: dict[str, int]) -> int:
    """How many files were written; all that the archive holds are added to `files` with their sizes."""
    written = 0
    try:
        members = _zip_members(pieces[0]) if pieces[0].suffix.lower() == ".zip" else _tar_members(pieces)
        for name, size, stream in members:
            written += _write(folder, name, size, stream)
            files[name] = size
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        names = pieces[0].name + (f" and {len(pieces) - 1} more pieces" if len(pieces) > 1 else "")
        raise SettingsError(f"archive {names} is damaged or not whole ({error}): fetch it again") from error
    return written


def _zip_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if not member.is_dir():
                yield member.filename, member.file_size, file.open(member)


def _tar_members(pieces: list[Path]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with io.BufferedReader(_Joined(pieces), 1 << 20) as stream, tarfile.open(fileobj=stream, mode="r|*") as file:
        for member in file:
            content = file.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, member.size, content


def _write(folder: Path, name: str, size: int, stream: IO[bytes]) -> int:
    """1 where the file was written, 0 where it was there."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise SettingsError(f"an archive wants to write to {name!r}, outside of {folder}: it is refused")
    target = folder / path
    if target.is_file() and target.stat().st_size == size:
        return 0
    draft = target.with_name(f".{target.name[:200]}.tmp")
    with writing(target, size):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(draft, "wb") as file:
                shutil.copyfileobj(stream, file, 1 << 22)
            if draft.stat().st_size != size:
                raise EOFError(f"{name} ends early")
            os.replace(draft, target)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return 1


class _Joined(io.RawIOBase):
    """Files one after the other, as one."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._left = iter(files)
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._file is None:
                path = next(self._left, None)
                if path is None:
                    return 0
                self._file = open(path, "rb")  # noqa: SIM115  closed below
            read = self._file.readinto(buffer)  # type: ignore[attr-defined]
            if read:
                return int(read)
            self._file.close()
            self._file = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _is_packed(path: Path) -> bool:
    return PACKED.fullmatch(path.name) is not None and path.suffix.lower() not in MEDIA


def _begins(path: Path) -> bool:
    """Whether a file begins as a tar archive, gzipped or not, does."""
    with open(path, "rb") as file:
        head = file.read(262)
    return head.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar"


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """part2 before part10, aa before ab."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _is_whole(folder: Path, holds: dict[str, int]) -> bool:
    """Whether these archives were unpacked here, and all that came out of them still is."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return bool(note["archives"] == holds) and all(
            (folder / name).stat().st_size == size for name, size in note["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
