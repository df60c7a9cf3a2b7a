"""Run a sweep: `python ablations/run.py --grid budget`. Plans, runs what has no record yet, shows the table."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not the script's folder: its names would hide packages

    from videonsa.bootstrap import ended, ensure_environment

    ensure_environment()

import argparse
import fnmatch
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ablations.adopt import adopt
from ablations.amend import amended_sweep, planned_changes, write_amended
from ablations.cell import Cell, Probe
from ablations.facts import facts_now, keep_files, pin_revisions
from ablations.grid import load_grid
from ablations.history import again_lines, older_records, plan_changes, remade_lines
from ablations.jobs import make_jobs
from ablations.local import Resources, local_resources, run_debug, run_local
from ablations.placement import check_processes, find_placement
from ablations.plan import Sweep, make_sweep, write_plan
from ablations.profile import TEXTS, Profile, load_profile, profile_names
from ablations.records import fail_untrained
from ablations.reported import report, require_report
from ablations.results import dry_run_text, hub_lines, left_line, list_text, needs_lines, problems, show, status_text
from ablations.settings import parse_changes
from ablations.slurm_follow import NO_JOBS, follow, queue_lines
from ablations.slurm_jobs import cancel_sweep, queued, settle_ended
from ablations.slurm_submit import submit
from ablations.stages import Stages
from ablations.state import DONE, FAILED, read_state
from slurm.executor import CLUSTERS
from slurm.machine import unused_gpus
from slurm.profile import TEXTS as SLURM_TEXTS
from slurm.profile import ClusterError, SlurmProfile, changed, load_slurm_profile, slurm_profile_names
from slurm.queue import QueueAway
from videonsa.commands import as_typed
from videonsa.config import SettingsError, one_of
from videonsa.disk import disk_error, writing
from videonsa.limit import REACHED, Limit
from videonsa.lock import Lock, LockHeld
from videonsa.options import MINUTES, Parser, folder, positive, text
from videonsa.places import place
from videonsa.values import one_line, read_mapping, unknown

WRONG_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None, stages: Stages | None = None) -> int:
    """The command line. Exit codes: 0 all asked for is done, 1 something failed, 2 wrong input, 75 time (--minutes)
    is up and something is left, 130 interrupted."""
    options = parse(arguments)
    limit = Limit(options.minutes)
    try:
        return run(options, stages or Stages(), limit)
    except (SettingsError, ClusterError) as error:
        return _complain(str(error), WRONG_INPUT)
    except LockHeld as error:
        return _complain(f"this sweep is running already ({error}); --status shows how far it is", 1)
    except QueueAway as error:
        return _complain(str(error), 1)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        disk = disk_error(error, options.out)
        if disk is not None:
            return _complain(f"{disk}; nothing finished is lost: once it is well the same command goes on", 1)
        return _complain(f"cannot write to {error.filename or options.out}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing finished is lost: the same command goes on", INTERRUPTED)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = Parser(prog=as_typed("python ablations/run.py"), description=as_typed(__doc__ or ""))
    parser.add_argument("--grid", type=text, metavar="NAME", help="a grid of the profile, or the path of a YAML file")
    parser.add_argument("--list", action="store_true", help="the grids and what they ask")
    parser.add_argument("--dry-run", action="store_true", help="cells, what is shared and done, time; runs nothing")
    parser.add_argument("--status", action="store_true", help="how far the sweep is")
    parser.add_argument("--adopt", action="store_true", help="give finished records of an older form their new names")
    parser.add_argument("--retry-failed", action="store_true", help="run failed cells again")
    parser.add_argument(
        "--only", type=text, metavar="PATTERN", help="cells whose label, suite or id holds this (* and ? allowed)"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a setting (repeatable)")
    parser.add_argument(
        "--profile",
        type=text,
        action="append",
        default=[],
        metavar="NAME",
        help="tiny (default) or paper; and a Slurm profile",
    )
    parser.add_argument("--cluster", type=text, default="auto", metavar="|".join(CLUSTERS), help="where jobs run")
    parser.add_argument(
        "--out", type=folder, default=Path("runs"), metavar="DIR", help="records, tables (default: runs)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes at once (default: one a GPU, or a core)"
    )
    parser.add_argument(
        "--processes", type=positive, metavar="N", help="of a training on this machine, a GPU each (default: 1)"
    )
    parser.add_argument("--minutes", type=positive, metavar="M", help=MINUTES)
    parser.add_argument("--wait", action="store_true", help="on Slurm: stay, show progress and then the table")
    parser.add_argument("--cancel", action="store_true", help="on Slurm: cancel this sweep's jobs, and nothing else")
    what = "at the end: the sweep's W&B report with its runs, or what `wandb sync` takes"
    parser.add_argument("--wandb-report", action="store_true", help=what)
    what = "of --wandb-report: without the benchmarks' questions and answers"
    parser.add_argument("--no-questions", action="store_true", help=what)
    options = parser.parse_args(arguments)
    if not (options.grid or options.list):
        parser.error("give --grid NAME, or --list to see the grids")
    if options.no_questions and not options.wandb_report:
        parser.error("--no-questions is of --wandb-report: give both")
    return options


def run(options: argparse.Namespace, stages: Stages, limit: Limit) -> int:
    """Carry out the options; raises SettingsError, ClusterError, LockHeld, OSError, KeyboardInterrupt."""
    one_of("--cluster", options.cluster, CLUSTERS)
    if options.wandb_report:
        require_report()
    profile, slurm_profile = load_profiles(options.profile)
    if options.list:
        print(list_text(profile.name))
        return 0
    changes = parse_changes(options.set)
    slurm_profile = change_slurm(slurm_profile, changes)
    profile = replace(profile, placement=find_placement(slurm_profile, changes))
    grid = load_grid(options.grid, profile.name, changes)
    others: dict[str, Any] = {}  # settings for failed cells alone
    if options.retry_failed and changes:
        given, changes = changes, planned_changes(changes, grid.name, options.grid, profile, options.out)
        others = {key: value for key, value in given.items() if key not in changes}
        grid = load_grid(options.grid, profile.name, changes)
    on_slurm = options.cluster == "slurm" or (options.cluster == "auto" and slurm_profile is not None)
    device = ("cuda" if slurm_profile.gpus_per_node else "cpu") if on_slurm and slurm_profile else None
    runs = not (options.status or options.cancel or options.dry_run)
    facts = facts_now(device, options.out, asks_hub=runs, reads_whole=runs)
    make = partial(make_sweep, grid, profile, options.out, options.grid, changes, facts)
    if options.status:
        return status(make(as_planned=True))
    if options.cancel:
        ids = cancel_sweep(make(as_planned=True))
        print(f"cancelled {len(ids)} jobs" + (": " + ", ".join(ids) if ids else " of this sweep: none was active"))
        return 0
    sweep = make()
    chosen = choose(sweep, options.only)
    if on_slurm and slurm_profile is None:
        raise ClusterError(f"--cluster slurm: say which with --profile: {', '.join(slurm_profile_names())}")
    if not on_slurm and (idle := unused_gpus()):
        print(idle, file=sys.stderr)
    if options.processes and (on_slurm or options.cluster == "debug"):
        valid = "for --cluster local; on Slurm a training has the profile's nodes x gpus_per_node"
        raise SettingsError(f"--processes {options.processes} is not valid: {valid}")
    if options.minutes and (on_slurm or options.cluster == "debug"):
        valid = "for --cluster local; on Slurm set slurm.minutes, the time limit of its jobs"
        raise SettingsError(f"--minutes {options.minutes} is not valid: {valid}")
    resources = local_resources(1 if options.cluster == "debug" else options.workers, options.processes or 1)
    if others:
        if on_slurm and not options.dry_run:
            settle_ended(sweep)
        places = {cell.place for cell in chosen}
        sweep = amended_sweep(sweep, chosen, others, make)
        chosen = [cell for cell in sweep.cells if cell.place in places]
    workers, processes = resources.workers, resources.processes
    if on_slurm and slurm_profile:
        workers, processes = slurm_profile.max_parallel, slurm_profile.processes
    if options.dry_run:
        return dry_run(sweep, chosen, options.retry_failed, workers, processes)
    identify(sweep)
    state = read_state(sweep)
    jobs = make_jobs(sweep, state, chosen, options.retry_failed, workers)
    check_processes(jobs, processes)
    check_out(options.out)
    print("\n".join(hub_lines(sweep)), end="\n" if hub_lines(sweep) else "")
    pin_revisions(facts, options.out)
    keep_files(facts, options.out)
    if options.adopt:
        print(adopt(sweep, chosen))
        return 0
    changed = plan_changes(make(as_planned=True), sweep)
    if changed:
        print(f"Since {sweep.name} was planned: {'; '.join(changed)}. What depends on that is made again.")
        if on_slurm and queued(make(as_planned=True)):
            raise ClusterError(f"{sweep.name} is in the queue with the code of then: --status, or --cancel it first")
    said = needs_lines(cell for cell in chosen if state.cells[cell.id] != DONE) + remade_lines(sweep, state, jobs)
    print("\n".join(said), end="\n" if said else "")
    if older := older_records(sweep, state, chosen):
        print(f"{len(older)} finished records of an older form ask the same: --adopt says which can stand, and why not")
    if others:
        with Lock(sweep.folder / "lock"):
            write_amended(sweep)
    if on_slurm and slurm_profile:
        return run_on_slurm(sweep, chosen, options, stages, slurm_profile)
    return run_at_once(sweep, chosen, options, stages, resources, limit)


def identify(sweep: Sweep) -> None:
    """Find every identity: weights that are not there are refused before anything is made, and the hub is asked."""
    things: list[Cell | Probe] = [*sweep.cells, *sweep.probes.values()]
    for thing in things:
        thing.id  # noqa: B018


def dry_run(sweep: Sweep, chosen: list[Cell], retry: bool, workers: int, processes: int) -> int:
    """Print what would run."""
    state = read_state(sweep)
    jobs = make_jobs(sweep, state, chosen, retry, workers)
    check_processes(jobs, processes)
    again = again_lines(sweep, state, chosen) + remade_lines(sweep, state, jobs)
    print(dry_run_text(sweep, state, jobs, workers, again, processes))
    return 0


def status(sweep: Sweep) -> int:
    """Print how far a sweep is; once nothing is left to run, its table too."""
    lines = queue_lines(sweep)
    state = read_state(sweep)
    print("\n".join([status_text(sweep, state, queued=lines not in ([], [NO_JOBS])), *lines]))
    ended = all(value in (DONE, FAILED) for value in state.cells.values())
    return 0 if not ended or show(sweep, state) else 1


def run_on_slurm(
    sweep: Sweep, chosen: list[Cell], options: argparse.Namespace, stages: Stages, profile: SlurmProfile
) -> int:
    """Submit and return at once, or with --wait follow to the end; a finished sweep shows its results."""
    print(submit(sweep, chosen, options.retry_failed, stages, profile), flush=True)
    try:
        if options.wait:
            follow(sweep, profile.max_parallel)
    except KeyboardInterrupt:
        return _complain("no longer watching; the jobs go on (--status, --wait, --cancel)", INTERRUPTED)
    state = read_state(sweep)
    if options.wait or all(state.cells[cell.id] in (DONE, FAILED) for cell in chosen):
        return finish(sweep, chosen, options)
    then = "shows the table and makes the W&B report" if options.wandb_report else "shows the table"
    print(f"--status: how far it is; --wait: follow it; --cancel: stop it; once done, the same command {then}")
    return 0


def run_at_once(
    sweep: Sweep, chosen: list[Cell], options: argparse.Namespace, stages: Stages, resources: Resources, limit: Limit
) -> int:
    """Run on this machine, then show the results; at the limit say what is left."""
    with Lock(sweep.folder / "lock"):
        write_plan(sweep)
        state = read_state(sweep)
        jobs = make_jobs(sweep, state, chosen, options.retry_failed, resources.askers)
        if not options.retry_failed:
            fail_untrained(sweep, state, chosen)
        if jobs and options.cluster == "debug":
            run_debug(sweep, jobs, stages)
        elif jobs:
            run_local(sweep, jobs, stages, resources, limit)
        if jobs and limit.late:
            return _complain(left_line(sweep, chosen), REACHED)
        return finish(sweep, chosen, options)


def load_profiles(names: list[str]) -> tuple[Profile, SlurmProfile | None]:
    """--profile names scales (tiny, paper) and Slurm profiles alike: the one of each kind that was named last."""
    scale, machines = "tiny", None
    for name in names:
        is_file = name.endswith((".yaml", ".yml"))
        if name in slurm_profile_names() or (is_file and os.path.isfile(place(name)) and not _has_recipe(place(name))):
            machines = load_slurm_profile(name)
        elif name in profile_names() or is_file:
            scale = name
        else:
            known = f"{', '.join(profile_names())}; Slurm profiles: {', '.join(slurm_profile_names())}"
            near = unknown(name, [*profile_names(), *slurm_profile_names()])
            raise SettingsError(f"no profile {name!r}; profiles: {known}; or the path of a YAML file{near}")
    return load_profile(scale), machines


def _has_recipe(path: Path) -> bool:
    """A file that says how to train is a profile of scale, any other one of Slurm."""
    return "train" in read_mapping(path, TEXTS | SLURM_TEXTS)


def change_slurm(profile: SlurmProfile | None, changes: dict[str, Any]) -> SlurmProfile | None:
    """The Slurm profile with the slurm.* of --set, which are taken out of `changes`: they are no part of any result."""
    asked = {key[6:]: changes.pop(key) for key in list(changes) if key.startswith("slurm.")}
    if asked and profile is None:
        raise ClusterError(f"--set slurm.{next(iter(asked))}: say which Slurm profile: --profile NAME")
    return changed(profile, asked) if profile else None


def finish(sweep: Sweep, chosen: list[Cell], options: argparse.Namespace) -> int:
    """Show the results, at W&B too where asked; 1 when one of the chosen cells, or what it needs, is not done."""
    state = read_state(sweep)
    shown = show(sweep, state)
    lines = problems(chosen, state, sweep)
    print("\n".join(lines), end="\n" if lines else "")
    if options.wandb_report:
        report(sweep, questions=not options.no_questions)
    return 0 if shown and not lines and all(state.cells[cell.id] == DONE for cell in chosen) else 1


def choose(sweep: Sweep, pattern: str | None) -> list[Cell]:
    """The cells that --only names: those whose label, suite, seed or id holds the pattern; only * and ? are signs."""
    if pattern is None:
        return list(sweep.cells)
    wanted = f"*{pattern.replace('[', '[[]')}*"
    chosen = [cell for cell in sweep.cells if fnmatch.fnmatchcase(f"{cell} {cell.id}", wanted)]
    if not chosen:
        labels = ", ".join(dict.fromkeys(cell.label for cell in sweep.cells))
        raise SettingsError(f"--only {pattern}: no cell of this name; labels: {labels}")
    return chosen


def check_out(out: Path) -> None:
    """Raise OSError, naming the folder, when nothing can be written there."""
    out.mkdir(parents=True, exist_ok=True)
    trial = out / ".writable"
    try:
        with writing(out, 1 << 20):
            trial.write_bytes(b"\0" * (1 << 20))
    finally:
        trial.unlink(missing_ok=True)


def _complain(text: str, code: int) -> int:
    print(one_line(text), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(ended(main()))
