"""What sbatch says when it takes no job, as one line that says what to do."""

from __future__ import annotations

import re

from slurm.profile import SlurmProfile
from slurm.queue import partitions

BUSY = ("Unable to contact", "timed out", "temporarily unable", "temporarily unavailable", "Connection refused")


def is_busy(said: str) -> bool:
    """The controller had no time: it is worth asking again."""
    return any(sign in said for sign in BUSY)


def words_of(error: Exception) -> str:
    """What sbatch wrote, of the several ways in which submitit hands it on."""
    parts = [str(error), *(str(getattr(error, name, "") or "") for name in ("stderr", "output"))]
    return " ".join([*parts, str(error.__cause__ or "")])


def explain(said: str, profile: SlurmProfile) -> str:
    """sbatch's refusal as one line that says what to do."""
    where, known = profile.where, partitions()
    if "nvalid partition" in said or (profile.partition and known and profile.partition not in known):
        return f"{where}: there is no partition {profile.partition!r}; partitions: {', '.join(known)}"
    if "nvalid account" in said or "nvalid qos" in said:
        named = [f"{key} {getattr(profile, key)!r}" for key in ("account", "qos") if getattr(profile, key)]
        given = " with ".join(named) or "your default account"
        return f"{where}: Slurm refuses {given}; yours: `sacctmgr show assoc user=$USER format=account,partition,qos`"
    if "nvalid feature" in said:
        return f"{where}: no node has the constraint {profile.constraint!r}; theirs: `sinfo -o '%R %f'`"
    if (
        "configuration is not available" in said
        or "nvalid generic resource" in said
        or "emory specification" in said
        or "node count specification" in said
    ):
        asked = f"{profile.gpus_per_node} GPUs, {profile.cpus} cores, {profile.memory:g} GB a node"
        place = f"partition {profile.partition or '(default)'}"
        wanted = "no node" if profile.nodes == 1 else f"no {profile.nodes} nodes"
        return f"{where}: {wanted} of {place} with {asked}; theirs: `sinfo -o '%R %D %c %m %G'`"
    reason = re.search(r"sbatch: error: (.*?)(?= sbatch: |$)", said)
    return f"{where}: sbatch refused: {reason[1] if reason else said[:300]}"
