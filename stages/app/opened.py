"""A finished run, opened for the app: its parts, and a sentence in place of each that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from latent_common.errors import UserError
from latent_common.files import check_path
from latent_env.prediction.detector import AnomalyDetector, load_detector
from latent_env.worlds.decision import DECISION
from latent_env.worlds.store import BUILTIN, COMPLETE, MANIFEST, builtin_names, newest_run
from stages.app.choosing import MadeSamples
from stages.app.playing import Playground
from stages.export.samples.found import SAMPLES

SHOWN = (f"{DECISION}.json", MANIFEST, SAMPLES)
"""Files of which a run has at least one if there is anything to show."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class OpenRun:
    """What there is to show of a run; a sentence says why a part is missing."""

    folder: Path
    detector: AnomalyDetector | str
    playground: Playground | str
    samples: MadeSamples | str


def find_run(name: str) -> Path:
    """The folder that ``name`` stands for: a built-in world, a run, or the newest finished run below it.

    :raises UserError: if there is none.
    """
    check_path(name, "the run's folder")
    folder = BUILTIN / name if name in builtin_names() else Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{name} is neither a folder nor a built-in world ({', '.join(builtin_names())}): name the "
            "folder that a run printed last; `latent-aug runs` lists them"
        )
    if any((folder / part).is_file() for part in (*SHOWN, COMPLETE)):
        return folder
    newest = newest_run(folder, *SHOWN)
    if newest is None:
        raise UserError(
            f"{name} holds no finished run with a detector: `latent-aug train` makes one below runs/"
        )
    return newest


def open_run(folder: Path, device: str) -> OpenRun:
    """Load what there is in ``folder``.

    :param device: ``cpu``, ``cuda`` or ``auto``.
    :raises UserError: if nothing can be shown; it says why.
    """
    detector = _unless_missing(lambda: load_detector(folder, device))
    judged = detector if isinstance(detector, AnomalyDetector) else None
    playground = _unless_missing(lambda: Playground.open(folder, device, judged))
    world = playground.world if isinstance(playground, Playground) else None
    samples = _unless_missing(lambda: MadeSamples.open(folder, world))
    parts = (detector, playground, samples)
    reasons = [part for part in parts if isinstance(part, str)]
    if len(reasons) == len(parts):
        raise UserError(reasons[0])
    return OpenRun(folder, *parts)


def _unless_missing(load: Callable[[], T]) -> T | str:
    """What ``load`` returns, or in one sentence why it can't."""
    try:
        return load()
    except UserError as error:
        return str(error)
