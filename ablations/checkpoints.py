"""What the weights of a given checkpoint are: their name, and what they were made with. Imports no torch.

Said once, by the first of these that says it: train.nsa.* of the grid's settings, `checkpoints:` of the grid or else of
the profile, the checkpoint's folder. It is the attention that is asked where nothing names another, it decides the
reference, and it stands in plan and records. Of a hub name that nobody describes it is not known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.checks import check_keys, mapping_at, text_or_none
from videonsa.config import NSASettings, SettingsError, from_dict, to_dict
from videonsa.hub import folder_at, is_hub_name, split_revision
from videonsa.weights import over, saved_settings

SETTINGS = tuple(field.name for field in dataclasses.fields(NSASettings))
KEYS = ("name", "model", *SETTINGS)


@dataclass(frozen=True)
class Checkpoint:
    """Weights that exist."""

    given: str  # folder or hub name, as it was given
    name: str | None  # the weights' name on the hub; None: a folder that nobody describes
    model: str | None  # the model that they were made from; None: not known
    nsa: NSASettings | None  # attention that they were made with; None: not known

    @property
    def settings(self) -> dict[str, Any]:
        """As records keep it."""
        nsa = None if self.nsa is None else to_dict(self.nsa)
        return {"checkpoint": self.given, "name": self.name, "model": self.model, "nsa": nsa}


def check_checkpoints(content: Any, where: str) -> dict[str, dict[str, Any]]:
    """The `checkpoints:` of a grid or profile: {hub name or folder: {name, model, settings of NSA}}."""
    checked = {}
    example = ", as in {Enxin/VideoNSA: {semantics: release}}"
    for given in mapping_at({"checkpoints": content}, "checkpoints", where, example):
        here = f"{where}: checkpoints: {given}"
        about = mapping_at(content, given, f"{where}: checkpoints", f" with some of {', '.join(KEYS)}")
        check_keys(about, KEYS, here)
        for key in ("name", "model"):
            text_or_none(about.get(key), f"{here}: {key}")
        from_dict(NSASettings, {key: value for key, value in about.items() if key in SETTINGS}, here)
        checked[given] = about
    return checked


def describe(
    given: str, said: Mapping[str, Mapping[str, Any]], named: Mapping[str, Any], where: str = ""
) -> Checkpoint:
    """What is known of a checkpoint.

    Args:
        given: hub name or folder.
        said: the `checkpoints:` of grid and profile. A folder that they give a name is what they say of that name.
        named: train.nsa.* of the grid's settings, without the prefix.
    Raises:
        SettingsError: a folder that cannot be loaded, a setting that is not valid.
    """
    about = dict(said.get(given) or {})
    folder = folder_at(given)
    if folder is None and not is_hub_name(given):
        raise SettingsError(f"checkpoint {given!r}: there is no such folder")
    name = about.get("name") or (None if folder else split_revision(given)[0])
    about = {**(said.get(str(name)) or {}), **about}
    stated = {key: value for key, value in about.items() if key in SETTINGS} | dict(named)
    saved = saved_settings(folder) if folder else NSASettings()
    known = folder is not None or given in said or name in said or bool(stated)
    return Checkpoint(given, name, about.get("model"), over(saved, stated, where) if known else None)
