"""Our synthetic tasks for lmms-eval: an ordinary task whose documents come from a folder that we write, not from the
HF hub.
"""

from __future__ import annotations

from typing import Any

import lmms_eval.api.metrics  # noqa: F401  registers exact_match
from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableMessagesTask

from evals.data.synthetic import SyntheticData, make_data, read_docs
from videonsa.config import from_dict


class SyntheticTask(ConfigurableMessagesTask):
    """A task named by `class` in a YAML file; its `dataset_kwargs` are the fields of `SyntheticData`, and `folder`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Make the videos where they are missing, and the table of questions in memory: no hub, no HF cache."""
        settings = dict(dataset_kwargs or {})
        folder = settings.pop("folder", None)
        place = make_data(from_dict(SyntheticData, settings, where="dataset_kwargs"), folder)
        docs = [{**doc, "video": str(place / doc["video"])} for doc in read_docs(place)]
        self.dataset = DatasetDict({"test": Dataset.from_list(docs)})
        self.dataset_no_image = self.dataset


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """The videos of a question: one file."""
    return [doc["video"]]
