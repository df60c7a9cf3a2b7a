"""Start a command of ours with any Python, in any surroundings: standard library only, and readable by old Pythons.

A script that is run by its path (`python analysis/run.py`) begins with

    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not the script's folder: its names would hide packages

    from videonsa.bootstrap import ensure_environment

    ensure_environment()

and one that is run as a module (`python -m videonsa.audit`), if it is `__main__`, with

    from videonsa.bootstrap import settle

    settle()
"""

import codecs
import errno
import importlib.util
import io
import locale
import os
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("pandas", "submitit")  # two of our dependencies that no bare Python has


def ensure_environment():  # no annotations: a Python too old for them should still reach the message below
    """Return where our dependencies can be imported; else start again under .venv; else say what to do, exit code 2."""
    open_closed_streams()
    drop_current_folder()
    if not all(importlib.util.find_spec(name) is not None for name in NEEDED):
        python = ROOT / ".venv" / "bin" / "python"
        inside = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
        if python.exists() and not inside:
            start_again(str(python))
        from videonsa.commands import in_checkout, to_install

        where = f" in {ROOT}" if in_checkout() else ""
        sys.stderr.write(f"the dependencies are not installed: run `{to_install()}`{where}\n")
        sys.exit(2)
    settle()


def settle():
    """A command does the same in any locale, under any of Python's own variables, in a pipe or without a terminal.

    Text is UTF-8, docstrings are there, a warning is no error, and whoever reads what we say may leave.
    """
    open_closed_streams()
    drop_current_folder()
    bare = sys.flags.optimize > 1 and os.environ.pop("PYTHONOPTIMIZE", "")  # transformers reads its own docstrings
    if bare or not speaks_utf8():
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")  # as the terminal has it
        start_again(sys.executable, "-X", "utf8")
    calm_warnings()
    if sys.stdout is sys.__stdout__:  # else whoever calls us has put something of his own there
        sys.stdout, sys.stderr = patient(sys.stdout, "replace"), patient(sys.stderr, "backslashreplace")


def start_again(python, *options):
    """Replace this process by the same command under this Python."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    words = sys.argv if spec is None else ["-m", spec.name.replace(".__main__", ""), *sys.argv[1:]]
    os.execv(python, [python, *options, *words])


def speaks_utf8():
    """File names, files and other programs' words are taken for UTF-8."""
    return codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"


def drop_current_folder():
    """No module is taken from the current folder, whatever lies there under a name of ours or of a dependency.

    `python -m` puts it first; and an empty part of PYTHONPATH, as `$PYTHONPATH:/my/lib` leaves it, means it too.
    """
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    try:
        here = os.getcwd()
    except OSError:  # it is gone, and nothing is in it
        return
    if here == str(ROOT) or here in [os.path.abspath(part) for part in parts if part]:
        return
    if getattr(sys.modules["__main__"], "__spec__", None) is not None and sys.path[:1] == [here]:
        del sys.path[0]
    if "" in parts and len(parts) > 1:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
        sys.path[:] = [entry for entry in sys.path if entry != here]


def open_closed_streams():
    """Where standard input, output or error are closed, the next file to be opened would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream = open(number, mode, closefd=False)  # noqa: SIM115 - for as long as we run
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def calm_warnings():
    """Under PYTHONWARNINGS=error or -W error the first old habit of a dependency would end us: Python's own rules."""
    if any(option and "error".startswith(option.partition(":")[0]) for option in sys.warnoptions):
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        os.environ.pop("PYTHONWARNINGS", None)


LOST = []  # type: list  # what found no room, first of all: the number of its stream, and why


class Patient(io.FileIO):
    """A stream whose reader may leave, as `head` does, a terminal that is closed, a log whose disk is full.

    Nothing else ends with that; what a full disk lost is told by `ended`.
    """

    def __init__(self, number):
        super().__init__(number, "w", closefd=False)
        self.bears = (errno.EPIPE, errno.EIO) if self.isatty() else (errno.EPIPE,)

    def write(self, data):
        """The number of bytes that were taken, or that nobody is there to take."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                LOST.append((self.fileno(), error))
            elif error.errno not in self.bears:
                raise
            return len(data)


def ended(code):
    """The exit status of a command that ended with `code`: not 0 where some of what it said found no room."""
    sys.stdout.flush()
    if not LOST:
        return code
    from videonsa.disk import disk_error

    number, error = LOST[0]
    try:
        name = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        name = ("standard input", "standard output", "standard error")[number]
    sys.stderr.write(f"{disk_error(error, name)}; some of the output is lost\n")
    sys.stderr.flush()
    return code or 1


def patient(stream, errors):
    """The standard stream, which bears that its reader leaves, and letters that it cannot spell."""
    stream.flush()
    raw = Patient(stream.fileno())
    made = {"encoding": stream.encoding, "errors": errors, "line_buffering": stream.line_buffering}
    return io.TextIOWrapper(io.BufferedWriter(raw), write_through=stream.write_through, **made)
