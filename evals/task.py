"""A suite's task, loaded by lmms-eval; what is missing for it is said in one line, before any question is asked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from evals import content, shipped
from evals.data.synthetic import SyntheticData, data_folder
from evals.needs import missing
from evals.suites import Suite, get_suite
from videonsa.config import SettingsError, SuiteSettings, to_dict

OURS = Path(__file__).parent / "tasks"
TOKEN = 28  # px of a vision token's side


def load_task(suite: SuiteSettings, data: Path | str | None = None) -> Any:
    """The suite's lmms-eval task: ours from its YAML file with the suite's settings, a local one, or a shipped one.

    Raises SettingsError, one line: synthetic settings that are not valid, a data folder that cannot be written, a task
    that neither lmms-eval nor the folder $VIDEONSA_TASKS has or that has another metric, and all that `missing` finds.
    """
    from lmms_eval.utils import load_yaml_config

    shipped.make_loadable()
    synthetic = synthetic_data(suite)
    if synthetic is not None:
        config = load_yaml_config(str(OURS / f"{suite.task}.yaml"))
        config["dataset_kwargs"] = {**to_dict(synthetic), "folder": str(data_folder(data))}
        return config["class"](config=config)
    lack = missing(suite)
    if lack is not None:
        raise SettingsError(lack)
    task = bare_task(suite)
    metric = get_suite(suite.name).metric
    if metric not in task.aggregation():
        known = ", ".join(task.aggregation())
        raise SettingsError(f"suite {suite.name} reports {metric}; task {suite.task!r} has only {known}")
    return task


def bare_task(suite: SuiteSettings) -> Any:
    """A local or shipped task as lmms-eval loads it, whatever the suite lacks to be asked."""
    shipped.make_loadable()
    return _other_task(suite.task, content.local_folder(), content.task_content(suite))


def synthetic_data(suite: SuiteSettings) -> SyntheticData | None:
    """What a synthetic suite asks about, videos no larger than its tokens need; None for a shipped suite."""
    kind: Suite = get_suite(suite.name)
    if kind.family is None:
        return None
    size = TOKEN * max(2, math.isqrt(suite.tokens_per_frame))
    frames = suite.frames or 32
    questions = suite.limit or kind.questions or 1
    return SyntheticData(kind.family, questions=questions, frames=frames, size=size, seed=suite.seed, mp4=kind.mp4)


def require_videos(suite: SuiteSettings, task: Any, total: int) -> None:
    """Raise SettingsError when not one of the questions' videos is on this machine."""
    first = None
    for number in range(total):
        for path in videos_of(task, task.eval_docs[number]):
            if path.is_file():
                return
            first = first or path.name
    place = (content.task_config(suite.task).get("dataset_kwargs") or {}).get("cache_dir", "")
    raise SettingsError(
        f"suite {suite.name}: none of the {total} questions' videos is there"
        + (f" (the first: {first})" if first else "")
        + f"; the task looks for them below $HF_HOME/{place}: python -m evals.data prepare {suite.name}"
    )


def videos_of(task: Any, doc: Any) -> Iterator[Path]:
    """Files that the question shows; none where the task itself finds none."""
    try:
        messages = task.doc_to_messages(doc)
    except (Exception, SystemExit):  # each shipped task has its own way to miss a file
        return
    for message in messages:
        for part in message["content"]:
            if part["type"] == "video" and isinstance(part.get("url"), str | Path):
                yield Path(part["url"])


@lru_cache(maxsize=1)
def _other_task(name: str, folder: Path | None, made_of: str | None) -> Any:
    """`made_of`: content of a local task, which may change while this process lives; None for a shipped one."""
    from lmms_eval.api.task import ConfigurableTask
    from lmms_eval.tasks import TaskManager, get_task_dict

    source = folder if made_of is not None else content.shipped_file(name)
    assert source is not None  # or `missing` has said so
    source = source if source.is_dir() else source.parent  # reading all of lmms-eval's tasks takes long
    once = inspect.unwrap(ConfigurableTask.download)  # it would try five times, and then not say why
    try:
        manager = TaskManager(include_path=str(source), include_defaults=False, model_name="videonsa")
        with patch.object(ConfigurableTask, "download", once):
            return get_task_dict([name], manager, "chat")[name]
    except SettingsError:
        raise
    except Exception as error:
        reason = why(error, str(content.task_config(name).get("dataset_path")))
        raise SettingsError(f"task {name!r}: {reason}") from error


def why(error: BaseException, data: str) -> str:
    """What went wrong with a task or its data set, and what to do, in one line."""
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < 20:
        if isinstance(cause, ModuleNotFoundError):
            return f"it needs the package {cause.name!r}: pip install {cause.name}"
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    remedy = next((REMEDIES[name] for name in names if name in REMEDIES), None)
    if remedy is not None:
        return f"its data set {data} {remedy.format(data=data)}"
    return f"its data set {data} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


LOGIN = "hf auth login, or HF_TOKEN"
AWAY = (
    "is not on this machine and the hub cannot be reached: run `python -m evals.data prepare SUITE` where it can,"
    " or here with --local DIR"
)
REMEDIES = {  # by the names of exceptions of huggingface_hub and of the clients below it
    "GatedRepoError": f"is gated: accept its terms on https://huggingface.co/datasets/{{data}}, then log in ({LOGIN})",
    "LocalTokenNotFoundError": f"needs a login: {LOGIN}",
    "RepositoryNotFoundError": f"is not on the hub, or needs a login: {LOGIN}",
    **dict.fromkeys(("OfflineModeIsEnabled", "LocalEntryNotFoundError", "MaxRetryError"), AWAY),
    **dict.fromkeys(("ConnectError", "ConnectTimeout", "ConnectionError"), AWAY),
}
