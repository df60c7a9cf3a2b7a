"""What a sweep shows: what it would do, where it stands, and at the end its table and figures. Imports no torch."""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection, Iterable
from pathlib import Path

from ablations.cell import Cell, Training
from ablations.display import describe
from ablations.estimate import estimate
from ablations.grid import FOLDER, grid_names, load_grid
from ablations.jobs import Job, make_jobs
from ablations.placement import placement_lines
from ablations.plan import Sweep, fingerprint, training_folder
from ablations.power import power_lines
from ablations.profile import profile_names
from ablations.progress import read_progress
from ablations.state import DONE, FAILED, INTERRUPTED, WAITING, State, read_state
from ablations.storage import disk_lines
from ablations.training_data import data_lines
from videonsa.config import SettingsError
from videonsa.disk import disk_error
from videonsa.lock import describe as owner_of
from videonsa.lock import is_held, read_owner
from videonsa.record import write_text
from videonsa.text import line_of, padded, width
from videonsa.training.skipped import in_words


def list_text(profile: str) -> str:
    """The grids of a profile with their questions, and the profiles."""
    lines = [f"Grids of profile {profile} (ablations/grids/{profile}/):"]
    names = grid_names(profile)
    longest = max(map(len, names), default=0)
    for name in names:
        try:
            grid = load_grid(name, profile)
            lines.append(
                f"  {name:<{longest}}  {grid.asks:<5}  {len(grid.variants):>3} variants  {line_of(grid.question)}"
            )
        except SettingsError as error:
            lines.append(f"  {name:<{longest}}  broken: {error}")
    others = [name for name in profile_names() if name != profile]
    lines.append(f"Other profiles: {', '.join(others)} (--profile NAME). A grid of your own: --grid path/to/file.yaml")
    return "\n".join(lines if FOLDER.is_dir() else lines[-1:])


def dry_run_text(
    sweep: Sweep, state: State, jobs: list[Job], workers: int, again: Iterable[str] = (), processes: int = 1
) -> str:
    """Cells, what they share, what is done, why some was done otherwise (`again`), how trainings lie over `processes`,
    how long the rest takes."""
    lines = [_title(sweep), ""]
    labels = {cell.label: line_of(cell.label) for cell in sweep.cells}
    columns = max(map(width, labels.values()))
    suite_width = max(len(cell.suite.name) for cell in sweep.cells)
    for cell in sweep.cells:
        label = padded(labels[cell.label], columns)
        row = f"  {label}  {cell.suite.name:<{suite_width}}  seed {cell.seed}  training {cell.training.id}"
        lines.append(f"{row}  cell {cell.id}  {state.cells[cell.id]}")
    trainings = [f"{key} ({_standing(training, state.trainings[key])})" for key, training in sweep.trainings.items()]
    lines += [
        "",
        f"{len(sweep.cells)} cells share {len(trainings)} training{'s' * (len(trainings) > 1)}: {', '.join(trainings)}",
    ]
    counts = {kind: sum(job.kind == kind for job in jobs) for kind in ("train", "evaluate", "probe")}
    if measured := sum(job.measures for job in jobs):
        counts |= {"train": counts["train"] - measured, "gates": measured}
    lines.append("To run: " + ", ".join(f"{number} {kind} jobs" for kind, number in counts.items()))
    lines += [
        *probe_lines(sweep),
        *again,
        *placement_lines(jobs, processes),
        *reference_lines(sweep),
        *hub_lines(sweep),
    ]
    lines += data_lines({key: training for key, training in sweep.trainings.items() if state.trainings[key] != DONE})
    lines.append(f"Time: {estimate(sweep, state, jobs, workers)}")
    lines += disk_lines(sweep, jobs, workers)
    lines += power_lines(sweep, state)
    lines += needs_lines(sweep.cells)
    lines.append(f"Records: {sweep.out}; table and figures: {sweep.folder}")
    return "\n".join(lines)


def probe_lines(sweep: Sweep) -> list[str]:
    """What probes look at, a line for those that look alike."""
    looks: dict[str, list[str]] = {}
    several = len({cell.suite.name for cell in sweep.cells}) > 1
    for probe in sweep.probes.values():
        about = f"{probe.videos} videos{f' of {probe.suite.name}' * several}: {', '.join(probe.observers)}"
        looks.setdefault(about, []).append(probe.id)
    return [f"{_probes(ids)} on {about}" for about, ids in looks.items()]


def _probes(ids: list[str]) -> str:
    return f"Probe {ids[0]}" if len(ids) == 1 else f"{len(ids)} probes"


def _standing(training: Training, status: str) -> str:
    """'waiting', or which weights are given."""
    return f"{training.checkpoint}, given" if training.exists else status


def needs_lines(cells: Iterable[Cell]) -> list[str]:
    """What benchmarks and trainings of these cells lack on this machine; without it nothing is asked, or trained."""
    from evals.needs import missing_of

    cells = list(cells)
    suites = {cell.suite.name: cell.suite for cell in cells}
    trainings = {cell.training.id: cell.training for cell in cells}
    lines = missing_of(suites.values())
    lines += [line for training in trainings.values() if (line := _absent_data(training))]
    return [f"Missing: {line}" for line in dict.fromkeys(lines)]


def _absent_data(training: Training) -> str | None:
    """What of a training's own data is not here; it may be where jobs run, or be misspelt."""
    data = training.inputs.get("data", "synth")
    train = training.settings or (training.gates.train if training.gates else None)
    if data == "synth" or train is None or None not in data.values():
        return None
    if data["file"] is None and Path(train.data).is_file():
        return f"the content of {train.data}, larger than a dry run reads: what is done of it, a run says"
    what = (
        f"file train.data={train.data!r}"
        if data["file"] is None
        else f"video of train.video_folder={train.video_folder!r}"
    )
    return f"no {what} on this machine: a training fails that does not find it"


def reference_lines(sweep: Sweep) -> list[str]:
    """What the others are compared with, and a line for each given weights of which nothing says how they were made."""
    none = "none: no difference is tested until the grid names one (reference: LABEL)"
    unknown = {training.checkpoint for training in sweep.trainings.values() if training.given and training.made is None}
    groups = f", and its like at each {sweep.grid.within}" if sweep.grid.within else ""
    return [f"Reference: {sweep.reference or none}{groups}"] + [
        f"Weights {name}: nothing says what they were made with; the paper's settings are asked (checkpoints: says it)"
        for name in sorted(map(str, unknown))
    ]


def hub_lines(sweep: Sweep) -> list[str]:
    """A line for each checkpoint of the hub whose revision is not known: its cells go by its name alone."""
    unknown = [name for name, revision in sweep.facts.hub.items() if revision is None]
    return [f"Revision of {name}: not known; it is pinned when a sweep runs where the hub answers" for name in unknown]


def status_text(sweep: Sweep, state: State, queued: bool = False) -> str:
    """Where the sweep stands, from its records and the progress of its jobs; `queued`: Slurm has some of them."""
    lines = [_title(sweep), _counts(state)]
    lock = sweep.folder / "lock"
    if is_held(lock):
        lines.append(f"running: {owner_of(read_owner(lock))}")
        jobs = sorted((sweep.folder / "jobs").glob("*/progress.json"))
        states = [read_progress(path.parent) for path in jobs]
        lines += [f"  {describe(progress)}" for progress in states if progress.get("phase") not in (None, "end")]
    elif not queued and (state.count(WAITING) or state.count(INTERRUPTED)):
        lines.append("not running; the same command without --status goes on")
    return "\n".join(lines + problems(sweep.cells, state, sweep) + skipped_lines(sweep))


def problems(cells: Collection[Cell], state: State, sweep: Sweep) -> list[str]:
    """One line for every failure."""
    lines = []
    for cell in cells:
        if state.cells[cell.id] in (FAILED, INTERRUPTED):
            lines.append(f"  failed  {cell}: {state.errors.get(cell.id, '')}")
    for key, status in state.trainings.items():
        if status in (FAILED, INTERRUPTED):
            lines.append(f"  failed  training {key}: {state.errors.get(key, '')}")
    for key, status in state.probes.items():
        if status in (FAILED, INTERRUPTED):
            probe = sweep.probes[key].id
            looked = ", ".join(sweep.probes[key].observers)
            lines.append(f"  failed  probe {probe} ({looked}): {state.errors.get(probe, '')}")
    every = [state.cells[cell.id] for cell in cells] + [*state.trainings.values(), *state.probes.values()]
    if lines:
        again = "--retry-failed runs them again" if FAILED in every else "the same command runs them again"
        lines.append(f"  tracebacks: in the records below {sweep.out}; {again}")
    return lines


def left_line(sweep: Sweep, chosen: Collection[Cell]) -> str:
    """What a time limit has left to do."""
    jobs = make_jobs(sweep, read_state(sweep), chosen, False, 1)
    cells = {cell.id for job in jobs if job.kind == "evaluate" for cell in job.cells}
    kinds = [job.kind for job in jobs]
    counts = {"training": kinds.count("train"), "cell": len(cells), "probe": kinds.count("probe")}
    left = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count)
    return f"time is up; left: {left or 'the table and figures'}; the same command goes on"


def skipped_lines(sweep: Sweep) -> list[str]:
    """One line for every training that passed over samples."""
    found = {key: in_words(training_folder(sweep.out, key)) for key in sweep.trainings}
    return [f"  training {key}: {words}" for key, words in found.items() if words]


def show(sweep: Sweep, state: State) -> bool:
    """Print the table and where it lies; make it first unless it is there already. False when it cannot be made."""
    try:
        paths = summary(sweep)
    except Exception as error:
        if (disk := disk_error(error, sweep.folder)) is not None:
            print(f"the table could not be made: {disk}")
            return False
        traceback.print_exc()
        print(f"the table could not be made: {type(error).__name__}: {error}")
        return False
    table = sweep.folder / "table.txt"
    if table.is_file():
        print(table.read_text(encoding="utf-8").rstrip())
    print("\n" + _counts(state))
    print("\n".join([f"  {line}" for line in by_stem(paths)] + skipped_lines(sweep)))
    return True


def by_stem(paths: Iterable[Path]) -> list[str]:
    """One line a table or figure, its formats together: figures/budget.{pdf,svg,png}."""
    formats: dict[Path, list[str]] = {}
    for path in paths:
        formats.setdefault(path.with_suffix(""), []).append(path.suffix[1:])
    return [f"{stem}.{{{','.join(ends)}}}" if len(ends) > 1 else f"{stem}.{ends[0]}" for stem, ends in formats.items()]


def summary(sweep: Sweep) -> list[Path]:
    """The table and figures of a sweep, made by analysis; made anew only when a record has changed."""
    note = sweep.folder / "summary.json"
    current = fingerprint(sweep)
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        paths = [sweep.folder / path for path in known["paths"]]
        if known["records"] == current and (sweep.folder / "table.txt").is_file():
            return [path for path in paths if path.is_file()]
    except (OSError, ValueError, KeyError):
        pass
    from analysis.run import summarize

    paths = [Path(path) for path in summarize(sweep.out, sweep.folder)]
    names = [str(path.relative_to(sweep.folder)) for path in paths if path.is_relative_to(sweep.folder)]
    write_text(note, json.dumps({"records": current, "paths": names}, indent=1) + "\n")
    return paths


def _title(sweep: Sweep) -> str:
    return f"{sweep.name}: {line_of(sweep.grid.question)} ({len(sweep.cells)} cells, changed at {sweep.grid.asks} time)"


def _counts(state: State) -> str:
    names = (DONE, FAILED, INTERRUPTED, WAITING)
    counts = {name: state.count(name) for name in names}
    return f"{len(state.cells)} cells: " + ", ".join(f"{number} {name}" for name, number in counts.items() if number)
