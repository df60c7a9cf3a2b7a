"""Which of this machine's GPUs a job gets. Imports no torch.

A job of questions or a probe has its GPU alone, for it measures times: it waits until one is free. Trainings share GPUs
evenly where there are more workers: a small model leaves its GPU idle between launches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ablations.jobs import Job

GPUs = tuple[str, ...]  # by their names, as CUDA_VISIBLE_DEVICES takes them


def gpus_for(job: Job, gpus: Sequence[str], taken: Iterable[tuple[Job, GPUs]], processes: int) -> GPUs | None:
    """The GPUs of a job that is to start beside those that have `taken` theirs; None: it waits for one.

    processes: of a training, a GPU each. Where the machine has no GPU, a job gets none and waits for none.
    """
    if not gpus:
        return ()
    held = [(other.trains, gpu) for other, theirs in taken for gpu in theirs]
    load = Counter(gpu for _, gpu in held)
    free = [gpu for gpu in gpus if gpu not in load]
    wanted = processes if job.trains else 1
    if len(free) >= wanted:
        return tuple(free[:wanted])
    timed = {gpu for trains, gpu in held if not trains}
    open_to_trainings = sorted((gpu for gpu in gpus if gpu not in timed), key=load.__getitem__)
    shares = job.trains and wanted == 1 and open_to_trainings
    return (open_to_trainings[0],) if shares else None


def named(gpus: GPUs) -> str:
    """' on GPU 0', for people; nothing where there is none."""
    return f" on GPU {', '.join(gpus)}" if gpus else ""
