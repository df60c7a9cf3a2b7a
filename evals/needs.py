"""What a suite needs here beside its questions: a judge's key, its data or a way to fetch them. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from evals import content
from evals.suites import get_suite
from videonsa.config import SuiteSettings

# lmms-eval's judges that VideoEval-Pro can use, by $API_TYPE, and the variables without which they do not answer.
JUDGES = {"openai": ("OPENAI_API_KEY",), "azure": ("AZURE_API_KEY", "AZURE_ENDPOINT"), "bedrock": (), "local": ()}
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
YES = ("1", "true", "yes", "on")


def missing(suite: SuiteSettings) -> str | None:
    """One line on what the suite lacks here and what to do; None when nothing is known to lack. Asks no server."""
    lack = asking_lack(suite) or data_lack(suite)
    return None if lack is None else f"suite {suite.name}: {lack}"


def missing_of(suites: Iterable[SuiteSettings]) -> list[str]:
    """The same of several, all that each lacks; those whose data can be fetched by one command share a line."""
    suites = list(suites)
    lines = [f"suite {suite.name}: {lack}" for suite in suites if (lack := asking_lack(suite))]
    absent = {suite.name: (suite, lack) for suite in suites if (lack := data_lack(suite))}
    names = [name for name, (suite, _) in absent.items() if _is_prepared(suite)]
    lines += [f"suite {name}: {lack}" for name, (_, lack) in absent.items() if name not in names]
    if names:
        lines.append(f"on this machine the data of {', '.join(names)}: python -m evals.data prepare {' '.join(names)}")
    return lines


def asking_lack(suite: SuiteSettings) -> str | None:
    """A task that is nowhere, or a judge without a key."""
    if get_suite(suite.name).family is not None:
        return None
    return _task(suite.task) or judge_lack(suite.name)


def _task(name: str) -> str | None:
    if content.local_file(name) or content.shipped_file(name):
        return None
    where = f"${content.TASKS} ({content.local_folder() or 'not set'})"
    return f"lmms-eval has no task {name!r}, nor has the folder that {where} names"


def judge_lack(name: str) -> str | None:
    """What a judged suite lacks to be scored; None where nothing is known to lack."""
    if not get_suite(name).judged:
        return None
    settings = {**_dotenv(), **os.environ}
    kind = settings.get("API_TYPE", "openai")
    if kind not in JUDGES:
        return f"API_TYPE={kind!r} names no judge: set it to one of {', '.join(JUDGES)}"
    absent = [name for name in JUDGES[kind] if not settings.get(name)]
    if absent:
        return f"its answers are judged by a language model: set {' and '.join(absent)} (judge API_TYPE={kind})"
    return None


def _dotenv() -> dict[str, str]:
    """lmms-eval's judge reads a file .env in the working directory."""
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(".env").items() if value} if Path(".env").is_file() else {}


def _is_prepared(suite: SuiteSettings) -> bool:
    """Whether it asks the task whose data evals/data knows."""
    return suite.task == get_suite(suite.name).settings.task


def data_lack(suite: SuiteSettings) -> str | None:
    """A data set of the hub that is not on this machine, and that cannot be fetched for all that is known here."""
    from huggingface_hub import constants, get_token

    if get_suite(suite.name).family is not None or content.local_file(suite.task):
        return None
    data = content.task_config(suite.task).get("dataset_path")
    prepared = Path(os.path.expanduser(os.environ.get("HF_DATASETS_CACHE") or f"{constants.HF_HOME}/datasets"))
    if not data or _is_in(prepared, data):
        return None
    here = _is_in(Path(constants.HF_HUB_CACHE), f"datasets--{data}")
    where = "was fetched, and its questions were not read" if here else "is not on this machine"
    absent, fetch = f"its data set {data} {where}", f"python -m evals.data prepare {suite.name}"
    if not _is_prepared(suite):
        fetch = f"hf download --repo-type dataset {data}, and a local task"
    if any(os.environ.get(name, "").lower() in YES for name in OFFLINE):
        return f"{absent}, and HF_HUB_OFFLINE forbids to fetch it: {'' if here else 'where there is internet, '}{fetch}"
    if get_token() is None:
        return f"{absent}, and to fetch it takes a login: hf auth login, or HF_TOKEN; without one: {fetch}"
    return None


def _is_in(cache: Path, name: str) -> bool:
    """Whether a cache has a folder of this name; caches write / as -- or ___, and capitals in their own ways."""
    wanted = _letters(name)
    return cache.is_dir() and any(_letters(folder.name) == wanted for folder in cache.iterdir() if folder.is_dir())


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
