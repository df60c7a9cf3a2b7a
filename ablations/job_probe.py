"""The job of a probe: what observers see of a checkpoint, and its record. No torch at first."""

from __future__ import annotations

import time
from typing import Any

from ablations.facts import check_here
from ablations.failures import error_of, line_of_failure
from ablations.here import checkpoint_of, observed, provenance_here
from ablations.inputs import PACKAGES
from ablations.progress import Progress
from ablations.records import found_by, record_of
from ablations.state import DONE, FAILED
from ablations.trained import of_weights
from ablations.work import Work
from evals.observers import registry
from videonsa.arrays import ARRAYS, write_arrays
from videonsa.config import to_dict
from videonsa.lock import claimed
from videonsa.record import read_record, write_record


def run_probe(work: Work, progress: Progress) -> list[str]:
    """Observe into probes/<id>/record.json, arrays into a file beside it; returns what failed."""
    probe = work.job.probe
    assert probe is not None
    folder = work.out / "probes" / probe.id
    progress.begin("wait", "probe")
    with claimed(folder) as claim:
        record = read_record(folder / "record.json")
        if record is not None and record["status"] == DONE:
            return []
        report = progress.begin("probe", ", ".join(probe.observers), check=claim.check)
        record = record_of(probe)
        started = time.time()
        try:
            measure, nsa = work.stages.get("probe"), to_dict(probe.nsa)
            check_here(probe.training.facts, observed().get("device"), PACKAGES)
            checkpoint = checkpoint_of(work.out, work.job)
            more: dict[str, Any] = {"methods": probe.methods} if probe.methods else {}
            more |= {} if probe.observers == registry.USUAL else {"observers": probe.observers}
            result = measure(checkpoint, nsa, probe.suite, videos=probe.videos, data=work.out / "data", **more)
            report(1, 1)
            if arrays := result.pop("arrays", None):
                claim.check()
                record |= {"arrays": write_arrays(folder / ARRAYS, arrays)}
            record |= found_by(result)
            record |= {"status": DONE, "summary": {"seconds": round(time.time() - started, 3)}, "error": None}
            record |= of_weights(work.out, probe.training, record)
        except Exception as error:
            record |= {"status": FAILED, "error": error_of(error, folder)}
        claim.check()
        write_record(folder / "record.json", record | {"provenance": provenance_here(work)})
    return [] if record["status"] == DONE else [line_of_failure(f"probe {probe.id}", record["error"])]
