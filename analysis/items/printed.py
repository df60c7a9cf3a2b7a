"""The appendix as a PDF: the page itself, printed by a Chromium or Chrome that is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from videonsa.disk import write_bytes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 300  # that printing may take: the whole appendix takes about ten
FLAGS = ("--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer")


class NotPrinted(Exception):
    """There is no PDF. The message is one line."""


def print_page(page: Path) -> Path:
    """The HTML file as a PDF beside it; an older one goes where it cannot be printed. Raises NotPrinted, DiskError."""
    path = page.with_suffix(".pdf")
    path.unlink(missing_ok=True)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NotPrinted(
            f"no {path.name}: it wants Chromium or Chrome ({', '.join(BROWSERS)}); any browser prints {page}"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "page.pdf"
        own = (f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}", page.resolve().as_uri())
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium starts for root only so; the page is ours
        try:
            code = _run([browser, *FLAGS, *sandbox, *own])
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotPrinted(f"no {path.name}: {browser} did not print {page} ({type(error).__name__})") from None
        if not made.is_file():
            raise NotPrinted(f"no {path.name}: {browser} ended with {code} and printed nothing of {page}")
        write_bytes(path, made.read_bytes())
    return path


def _run(command: list[str]) -> int:
    """The code a command ends with; it and what it started end after SECONDS. Raises OSError, TimeoutExpired."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    try:
        return process.wait(SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
