"""An offline run as W&B's own reader finds it: what `wandb sync` would send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_run(folder: Path) -> dict[str, Any]:
    """`id`, `name`, `group`, `job_type`, `config`, `history` (one mapping a step), `summary`, `artifacts` (names)."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob("*.wandb")
    store, found = DataStore(), {"history": [], "summary": {}, "artifacts": []}
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"id": run.run_id, "name": run.display_name, "group": run.run_group, "job_type": run.job_type}
            found["config"] = {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "history":
            found["history"].append(_items(record.history.item))
        elif kind == "summary":
            found["summary"] |= _items(record.summary.update)
        elif kind == "artifact":
            found["artifacts"].append(record.artifact.name)
    return found


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        first, *rest = item.nested_key or [item.key]
        if rest:
            found.setdefault(first, {})["/".join(rest)] = json.loads(item.value_json)
        else:
            found[first] = json.loads(item.value_json)
    return found


def read_table(folder: Path, value: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table that a run's history names."""
    table = json.loads((folder / "files" / value["path"]).read_text())
    return table["columns"], table["data"]
