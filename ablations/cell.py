"""A cell: one variant, one suite, one seed, and the identities that name its files. Imports no torch.

An identity covers everything that can change a number, and nothing else (ablations/inputs.py). The training's identity
names the checkpoint, so that cells which differ only at test time, also of different grids, share one training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ablations.attention import attention_of, group
from ablations.checkpoints import Checkpoint, describe
from ablations.facts import Facts, facts_now
from ablations.gates import GateSamples, gates_for
from ablations.grid import Grid, Variant
from ablations.inputs import cell_inputs, gates_inputs, identity_of, probe_inputs, training_inputs
from ablations.profile import Profile, check_suites, suite_settings
from evals.observers import registry
from videonsa.config import NSASettings, SettingsError, SuiteSettings, TrainSettings, from_dict, require, to_dict
from videonsa.hub import folder_at
from videonsa.identity import identity, settings_inputs
from videonsa.methods.asked import beside
from videonsa.methods.entries import MethodSettings
from videonsa.methods.registry import as_record, described
from videonsa.names import SMALL_MODELS
from videonsa.weights import ask, check_trainable, decoder_shape


@dataclass(frozen=True)
class Training:
    """What a cell's weights are: settings of a training, or a checkpoint that exists."""

    settings: TrainSettings | None
    given: Checkpoint | None
    facts: Facts  # as they were when the sweep was planned
    gates: GateSamples | None = None  # over which the given weights' mean gates are measured, before they are used
    start: Training | None = None  # whose weights it begins with, in the place of the settings' model

    @property
    def exists(self) -> bool:
        """Nothing has to be done before the weights can be used."""
        return self.given is not None and self.gates is None

    @property
    def before(self) -> tuple[Training, ...]:
        """The trainings that must be done before it, the next first."""
        return () if self.start is None else (self.start, *self.start.before)

    @property
    def checkpoint(self) -> str | None:
        """The folder or hub name of weights that exist."""
        return self.given.given if self.given else None

    @property
    def made(self) -> NSASettings | None:
        """The attention that the weights were made with; None where nothing says."""
        if self.given:
            return self.given.nsa
        return self.settings.nsa if self.settings else None

    @property
    def nsa(self) -> NSASettings:
        """The attention that is asked where nothing names another; the paper's of weights that nobody describes."""
        return self.made or NSASettings()

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All that the weights depend on, in plain form."""
        if self.settings is None:
            weights = self.facts.weights(str(self.checkpoint))
            return gates_inputs(weights, self.gates, self.facts) if self.gates else weights
        return training_inputs(self.settings, self.facts, self.start.inputs if self.start else None)

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits: the name of the training's folder."""
        return identity_of(self.inputs)

    @cached_property
    def record_settings(self) -> dict[str, Any]:
        """The settings as a record keeps them."""
        if self.given is None:
            return to_dict(self.settings) | (
                {"start": {"id": self.start.id, **self.start.record_settings}} if self.start else {}
            )
        return self.given.settings | ({"gates": self.gates.settings} if self.gates else {})

    @property
    def identities(self) -> dict[str, str]:
        """The identities as the record keeps them."""
        return {"training": self.id}


@dataclass(frozen=True)
class Cell:
    """One number to find."""

    label: str
    suite: SuiteSettings
    seed: int
    training: Training
    nsa: NSASettings  # attention at test time
    varied: Mapping[str, Any]  # the grid's own settings of this variant, for reading
    method: MethodSettings | None = None  # what attends in NSA's place
    amended: Mapping[str, Any] = field(default_factory=dict)  # settings given when it was retried (ablations/amend.py)
    planned: str = ""  # its variant's label in the grid, where that is not its own

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All that the number depends on, in plain form."""
        return cell_inputs(self.training.inputs, self.nsa, self.suite, self.training.facts, self.method)

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits: the name of the cell's folder."""
        return identity_of(self.inputs)

    @cached_property
    def run(self) -> str:
        """The folder of its answers, in which cells of the same weights and questions have theirs: they share work."""
        asked = {name: value for name, value in settings_inputs(self.suite).items() if name != "limit"}
        return f"{self.suite.name}-{identity({'weights': self.training.id, 'suite': asked})}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings as the record keeps them."""
        suite, nsa = to_dict(self.suite), to_dict(self.nsa)
        settings = {"train": self.training.record_settings, "nsa": nsa, "suite": suite, "seed": self.seed}
        return settings if self.method is None else settings | {"method": as_record(self.method)}

    @property
    def identities(self) -> dict[str, str]:
        """The identities as the record keeps them."""
        return {"cell": self.id, "training": self.training.id, "code": identity(self.inputs["code"])}

    @property
    def is_probed(self) -> bool:
        """A probe can look at what it attends to: NSA's gates and keys, or another method's keys."""
        return self.nsa.attention == "nsa" if self.method is None else self.method.entry.chooses_keys

    @property
    def place(self) -> str:
        """Its name in the grid, whatever settings it was given since."""
        return self._named(self.planned or self.label)

    def __str__(self) -> str:
        return self._named(self.label)

    def _named(self, label: str) -> str:
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{label} · {self.suite.name}{seed}"


@dataclass(frozen=True)
class Probe:
    """A look at how a model spends its attention, on the first videos that one cell is asked about.

    By observers, under the cell's own attention where that is NSA, and of what other methods choose.
    """

    training: Training
    nsa: NSASettings
    suite: SuiteSettings
    videos: int
    methods: tuple[MethodSettings, ...] = ()  # whose choice of keys is looked at
    observers: tuple[str, ...] = registry.USUAL  # names of evals/observers/registry.py

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All that the probe's numbers depend on, in plain form."""
        facts = self.training.facts
        return probe_inputs(
            self.training.inputs, self.nsa, self.suite, self.videos, facts, self.methods, self.observers
        )

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits: the name of the probe's folder."""
        return identity_of(self.inputs)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as the record keeps them."""
        nsa, suite = to_dict(self.nsa), to_dict(self.suite)
        settings = {"train": self.training.record_settings, "nsa": nsa, "suite": suite, "videos": self.videos}
        if self.methods:
            settings["methods"] = [as_record(method) for method in self.methods]
        return settings if self.observers == registry.USUAL else settings | {"observers": list(self.observers)}

    @property
    def identities(self) -> dict[str, str]:
        """The identities as the record keeps them."""
        return {"probe": self.id, "training": self.training.id}


def make_cells(
    grid: Grid, profile: Profile, facts: Facts | None = None, amended: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Cell]:
    """The grid's variants x suites x seeds, in the order of tables. A given checkpoint has no seed: it counts once.

    `amended` gives single cells, by their place in the grid, other settings; their labels then say so.
    """
    facts = facts or facts_now()
    suites = profile.suites if grid.suites is None else _chosen_suites(grid, profile)
    cells = []
    for variant in grid.variants:
        seeds = grid.seeds or profile.seeds
        for seed in seeds[:1] if given_to(variant, grid, profile) else seeds:
            training = make_training(variant, grid, profile, seed, facts)
            for name, changes in suites.items():
                cell = make_cell(variant, grid, training, name, changes, seed)
                if others := (amended or {}).get(cell.place):
                    note = ", ".join(f"{key.partition('.')[2]}={value}" for key, value in others.items())
                    other = Variant(f"{variant.label} ({note})", {**variant.settings, **others})
                    training_ = make_training(other, grid, profile, seed, facts)
                    cell = make_cell(other, grid, training_, name, changes, seed)
                    cell = replace(cell, amended=others, planned=variant.label)
                cells.append(cell)
    return cells


def make_cell(
    variant: Variant, grid: Grid, training: Training, suite_name: str, suite_changes: Mapping[str, Any], seed: int
) -> Cell:
    """One variant on one suite."""
    where = f"{grid.name}: {variant.label}"
    changes, method = attention_of(variant.settings, where)
    nsa = ask(training.nsa, changes, f"{where}: nsa")
    if method is not None:
        nsa = beside(nsa)
        check_model(method, training, where)
    varied = {key: value for key, value in variant.settings.items() if key in grid.axes}
    asked = {**suite_changes, **group(variant.settings, "suite")}
    suite = suite_settings(suite_name, asked, f"{grid.name}: {suite_name}")
    return Cell(variant.label, suite, seed, training, nsa, varied, method)


def check_model(method: MethodSettings, training: Training, where: str) -> None:
    """Refuse a method that does not serve a model of this shape, where the shape is known."""
    model = training.settings.model if training.settings else str(training.checkpoint)
    if shape := decoder_shape(model):
        try:
            method.check_model(*shape)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None


def given_to(variant: Variant, grid: Grid, profile: Profile) -> str | None:
    """The checkpoint that a variant is asked of; None: it is trained."""
    return variant.settings.get("checkpoint", profile.checkpoint if grid.asks == "test" else None)


def make_training(variant: Variant, grid: Grid, profile: Profile, seed: int, facts: Facts) -> Training:
    """The training that a variant needs, or the weights that it gives.

    With `asks: train` its nsa.* settings hold while training too. Of given weights train.nsa.* says what they were made
    with; the profile's recipe says nothing about them.
    """
    where, checkpoint = f"{grid.name}: {variant.label}", given_to(variant, grid, profile)
    settings = dict(profile.train) | {"seed": seed}
    changes = group(variant.settings, "train")
    nsa = dict(settings.get("nsa") or {})
    asked, method = attention_of(variant.settings, where)
    if grid.asks == "train":
        if method is not None:
            valid = "training is NSA's or dense; ask for it at test time (asks: test)"
            raise SettingsError(f"{where}: method={method.name!r} is not valid: {valid}")
        nsa |= asked
        if nsa.get("gate_mode") == "static":  # means of what a training has learnt: it learns with dynamic ones
            nsa["gate_mode"] = "dynamic"
    named = {key[4:]: value for key, value in changes.items() if key.startswith("nsa.")}
    nsa |= named
    settings |= {key: value for key, value in changes.items() if not key.startswith("nsa.")} | dict(profile.placement)
    train = from_dict(TrainSettings, settings | {"nsa": nsa}, f"{where}: train")
    check_families(train, f"{where}: train")
    start = variant.settings.get("start")
    if checkpoint:
        require(start is None, f"{where}: start", start, f"nothing is trained of checkpoint {checkpoint}")
        given = describe(checkpoint, _said(grid, profile), named, f"{where}: train.nsa")
        return Training(None, given, facts, gates_for(checkpoint, given.nsa, asked, train, profile.gate_samples))
    if start is not None:
        return _begun(train, next(each for each in grid.variants if each.label == start), grid, profile, facts, where)
    folder = None if train.model in SMALL_MODELS else folder_at(train.model)
    if folder is not None:
        check_trainable(folder)
    return Training(train, None, facts)


def _begun(train: TrainSettings, first: Variant, grid: Grid, profile: Profile, facts: Facts, where: str) -> Training:
    """The training that begins with the weights that another variant was trained to, by the same seed."""
    begun = make_training(first, grid, profile, train.seed, facts)
    valid = f"{first.label} is given weights: name them by train.model"
    require(begun.settings is not None, f"{where}: start", first.label, valid)
    assert begun.settings is not None
    same = train.model == begun.settings.model
    require(same, f"{where}: train.model", train.model, f"{first.label} began with {begun.settings.model}")
    return Training(train, None, facts, start=begun)


def check_families(train: TrainSettings, where: str) -> None:
    """Refuse families of synthetic questions that do not exist, and videos too short for them."""
    from videonsa.synth import check_asked

    if train.data == "synth":
        try:
            check_asked(train.families, train.frames)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None


def make_probe(cells: Iterable[Cell], profile: Profile, reference: str | None) -> Probe | None:
    """The probe of one training; None where its observers have nothing to look at: no gates, no method that chooses.

    Its attention, suite and videos are those of the cell of these that stands for it: of the variant that `probe:`
    names, else of the reference, else of one asked as its weights were made, on the profile's probe suite or the first.
    All methods of the cells are looked at.
    """
    usable = [cell for cell in cells if cell.is_probed and cell.training.gates is None]
    observers = profile.probe_observers
    if all(registry.find(name, "observers").of_nsa for name in observers):
        usable = [cell for cell in usable if cell.method is None]
    own = [cell for cell in usable if cell.method is None and cell.training.nsa.attention == "nsa"]
    methods = {described(cell.method): cell.method for cell in usable if cell.method is not None}
    asked = own or [cell for cell in usable if cell.method is not None]
    if profile.probe_suite is None or not asked:
        return None
    here = [cell for cell in asked if cell.suite.name == profile.probe_suite]
    wanted = profile.probe_label or reference
    chosen = min(here or asked, key=lambda cell: (cell.label != wanted, cell.nsa != cell.training.made))
    videos = min(profile.probe_videos, chosen.suite.limit or profile.probe_videos)
    return Probe(
        chosen.training, chosen.nsa, chosen.suite, videos, tuple(methods[name] for name in sorted(methods)), observers
    )


def _said(grid: Grid, profile: Profile) -> dict[str, dict[str, Any]]:
    """What grid and profile say of given weights; the grid goes first."""
    names = {**profile.checkpoints, **grid.checkpoints}
    return {name: {**profile.checkpoints.get(name, {}), **grid.checkpoints.get(name, {})} for name in names}


def _chosen_suites(grid: Grid, profile: Profile) -> dict[str, dict[str, Any]]:
    """The grid's suites, each with the profile's settings under the grid's own."""
    chosen = {name: {**profile.suites.get(name, {}), **own} for name, own in (grid.suites or {}).items()}
    check_suites(chosen, grid.name)
    return chosen
