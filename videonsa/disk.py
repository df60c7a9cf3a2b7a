"""What is written appears whole or not at all, and when the disk fails it is said which, in one line. No torch.

Full, over its quota, out of inodes, read-only, broken, its server gone: to whoever writes these are one thing, a
DiskError. No setting is to blame, and what was complete stays: once the disk is well the same command goes on.
"""

from __future__ import annotations

import errno
import glob
import os
import resource
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
AWAY = (errno.ENOTCONN, errno.ETIMEDOUT, errno.ENXIO, errno.ENODEV)  # of a file; without one, a network's own affair
TORCH = ("unexpected pos", "PytorchStreamWriter failed")  # all that torch.save says when a write fails
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
LEFT_SECONDS = 24 * 3600.0  # a draft that has not grown for so long is nobody's
EMPTY = 1 << 20  # bytes; a disk with less is full


class DiskError(OSError):
    """A disk that cannot be written or read any more. The message is one line: what for, why, which disk, its space."""


@contextmanager
def writing(path: Path | str, needed: int | None = None) -> Iterator[None]:
    """What fails in the block because of the disk becomes a DiskError; `needed`: bytes that are to go to `path`."""
    try:
        yield
    except Exception as error:
        if (found := disk_error(error, path, needed)) is not None:
            raise found from error
        raise


def disk_error(error: BaseException, path: Path | str, needed: int | None = None) -> DiskError | None:
    """The DiskError that an exception of any library stands for; None when the disk is not to blame.

    `path`: what was written, where the exception names no file itself.
    """
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, DiskError):
            return one
        if isinstance(one, OSError):
            named = one.filename if isinstance(one.filename, str) else None
            if one.errno in DISK or (named and one.errno in AWAY):
                return DiskError(words(one.errno, named or path, needed))
    said = " ".join(map(str, chain))
    for code in DISK:  # safetensors and shutil hand on the words alone
        if f"(os error {code})" in said or f"[Errno {code}]" in said or (code in FULL and os.strerror(code) in said):
            return DiskError(words(code, path, needed))
    return DiskError(words(None, path, needed)) if any(sign in said for sign in TORCH) else None


def words(code: int | None, path: Path | str, needed: int | None = None) -> str:
    """The one line; `code`: of errno, None where it is not known.

    'cannot write to runs/x: No space left on device; disk /scratch: 0 B free, 3 MiB needed'
    """
    place = existing(path)
    free, inodes = space(place)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if code is None:
        full = free < max(needed or 0, EMPTY)
        code = errno.ENOSPC if full else errno.EIO if limit == resource.RLIM_INFINITY else errno.EFBIG
    facts = []
    if inodes == 0 and code == errno.ENOSPC:
        facts.append("0 inodes (files) free")
    elif code in FULL:
        facts.append(f"{size(free)} free" + (", but your quota is used up" if code == errno.EDQUOT else ""))
    if code == errno.EFBIG and limit != resource.RLIM_INFINITY:
        facts.append(f"a file may have {size(limit)} (ulimit -f)")
    if needed and code in (*FULL, errno.EFBIG):
        facts.append(f"{size(needed)} needed")
    verb = "write to" if code in (*FULL, errno.EFBIG, errno.EROFS) else "read or write"
    disk = f"disk {mount_point(place)}" + (f": {', '.join(facts)}" if facts else "")
    return f"cannot {verb} {path}: {os.strerror(code)}; {disk}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from, as a traceback shows them."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def require_room(path: Path, needed: int) -> None:
    """Raise DiskError when the disk that holds, or would hold, the path has less than `needed` bytes."""
    if space(existing(path))[0] < needed:
        raise DiskError(words(errno.ENOSPC, path, needed))


def check_readable(path: Path) -> None:
    """Raise DiskError when the disk does not give the file's bytes: then what they mean is not to blame.

    Decoders say "Input/output error" of a damaged file, too.
    """
    try:
        with open(path, "rb") as file:
            while file.read(1 << 22):
                pass
    except OSError as error:
        if (found := disk_error(error, path)) is not None:
            raise found from error


def space(place: Path) -> tuple[int, int | None]:
    """Bytes and inodes that are free to this user; inodes None where the file system does not count them."""
    try:
        here = os.statvfs(place)
    except OSError:
        return 0, None
    return here.f_bavail * here.f_frsize, here.f_favail if here.f_files else None


def size(count: int) -> str:
    """12 B, 3.5 KiB, 1.2 GiB."""
    value, unit = float(count), 0
    while value >= 1024 and unit < 4:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def existing(path: Path | str) -> Path:
    """The path without links, or the nearest folder above it that is there."""
    place = Path(os.path.realpath(path))
    while place != place.parent and not os.path.lexists(place):
        place = place.parent
    return place


def mount_point(place: Path) -> Path:
    """Where the disk is mounted that holds an existing path."""
    place = place if place.is_dir() else place.parent
    with suppress(OSError):
        while place != place.parent and os.stat(place).st_dev == os.stat(place.parent).st_dev:
            place = place.parent
    return place


def write_bytes(path: Path, content: bytes, replace: bool = True) -> None:
    """Write a file atomically and durably: a reader, also on another node, sees all of it or nothing.

    Raises DiskError, or OSError when it may not be written, and what was there is then untouched; without `replace`
    FileExistsError where there is a file, also one that came meanwhile.
    """
    temporary = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:12]}.tmp")
    with writing(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                link(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def link(file: Path, name: Path) -> None:
    """Give a file this name too. Raises FileExistsError when it is taken."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with open(name, "xb") as copy:  # next best, on a file system without links
            try:
                copy.write(file.read_bytes())
                copy.flush()
            except OSError:
                name.unlink()
                raise


@contextmanager
def whole_folder(place: Path, needed: int | None = None) -> Iterator[Path]:
    """A draft to fill, which becomes `place` when the block ends well, and is removed when it does not.

    Where another process made the same meanwhile, that one stands. Raises as write_bytes.
    """
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}")
    with writing(place, needed):
        draft.mkdir(parents=True)
        for old in place.parent.glob(f".{glob.escape(place.name)}.*"):  # of a process that was killed
            if draft.stat().st_mtime - old.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        try:
            yield draft
            publish(draft, place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def publish(draft: Path, place: Path) -> None:
    """Give a filled folder its name, once all that is in it is on the disk: after a power failure, too, it is whole.

    Its files get the mode that the user's umask gives: safetensors and tempfile make theirs for their owner alone.
    """
    mode = mode_here(draft)
    for folder, _, names in os.walk(draft):
        for name in names:
            os.chmod(os.path.join(folder, name), mode)
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
    try:
        os.rename(draft, place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    sync_folder(place.parent)


def mode_here(folder: Path) -> int:
    """The mode that a file gets here when it is simply made: by the umask, or by the folder's default rights.

    Found out by making one: to ask for the umask is to change it for all threads.
    """
    probe = folder / f".{uuid.uuid4().hex[:12]}.tmp"
    try:
        with open(probe, "xb") as file:
            return stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    finally:
        probe.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk. Some file systems cannot be asked for that, and say so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
