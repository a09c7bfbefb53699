"""The runs of a comparison: what each is called with, and the loop that makes them one after the other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import HydraException
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException

from detectors.metrics.intervals import Floats
from latent_common.artifacts import read_json, write_json
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from latent_env.training.evaluation import SCORES
from latent_env.worlds.store import COMPLETE
from stages.cli.error_messages import explain

MACHINE_KEYS = ("device", "threads", "memory", "prepared", "data_root", "runs")
"""Keys that say where things lie and on what a run is made: the same run elsewhere is the same."""


@dataclass(frozen=True)
class Case:
    """One run of a script."""

    place: tuple[str, ...]
    """What runs share that are compared with each other: a data set, maybe a setting."""
    method: str
    """What is compared: a detector, an agent, a learner."""
    seed: int
    script: str
    """``train_detector`` or ``train_ppo``."""
    arguments: tuple[str, ...]
    """All keys that the script is called with."""

    @property
    def name(self) -> str:
        """A name that no other run of a comparison has, fit for a file."""
        text = "-".join((*self.place, self.method, str(self.seed)))
        return "".join(letter if letter.isalnum() or letter in "-_=." else "_" for letter in text)

    @property
    def keys(self) -> list[str]:
        """The keys that decide the outcome."""
        return [key for key in self.arguments if key.partition("=")[0] not in MACHINE_KEYS]


@dataclass(frozen=True)
class Outcome:
    """What became of a run: without a folder it wasn't finished."""

    case: Case
    folder: Path | None = None
    seconds: float | None = None
    """What it took; None if it was there before, or was never finished."""
    commit: str | None = None
    """The code that made it, where that is known."""
    error: str = ""

    @property
    def state(self) -> str:
        """In a word: ``complete``, ``failed`` or ``missing``."""
        return "complete" if self.folder else "failed" if self.error else "missing"

    def read(self, name: str) -> dict[str, Any]:
        """The JSON file ``name`` of a finished run."""
        assert self.folder is not None
        found: dict[str, Any] = read_json(self.folder / name)
        return found

    def scores(self, name: str) -> tuple[NDArray[np.int64], Floats]:
        """Labels ``(N,)`` of the test images, and the scores ``(N,)`` that a finished run names ``name``."""
        assert self.folder is not None
        with np.load(self.folder / SCORES, allow_pickle=False) as held:
            return held["labels"], held[name].astype(np.float64)


Script = Callable[[Case], Path]
"""Makes a run, or finds it made, and returns its folder."""


def find_outcome(case: Case, out: Path) -> Outcome:
    """What an earlier command noted of a run, if its folder is still there."""
    path = out / "cases" / f"{case.name}.json"
    noted = read_json(path) if path.is_file() else {}
    if noted.get("keys") != case.keys or not (Path(noted["folder"]) / COMPLETE).is_file():
        return Outcome(case)
    return Outcome(case, Path(noted["folder"]), noted["seconds"], noted["commit"])


def make_all(cases: Sequence[Case], out: Path, scripts: Mapping[str, Script]) -> list[Outcome]:
    """Make what isn't there, one run after the other, and note it below ``out``.

    A run that fails is an outcome too, and the others go on. Ctrl-C stops a run where it can go on.
    """
    outcomes = [find_outcome(case, out) for case in cases]
    found, code = sum(outcome.folder is not None for outcome in outcomes), commit()
    with progress_bar("runs", len(cases), found) as bar:
        for number, (case, outcome) in enumerate(zip(cases, outcomes, strict=True)):
            if outcome.folder is None:
                bar.set_postfix_str(case.name)
                outcomes[number] = make(case, out, scripts[case.script], code)
                bar.update()
    return outcomes


def make(case: Case, out: Path, script: Script, code: str) -> Outcome:
    """Make one run; what it prints goes to its file in ``<out>/logs``."""
    began = time.time()
    with quiet(out / "logs" / f"{case.name}.log"):
        try:
            folder = script(case)
        except UserError as error:
            return Outcome(case, error=str(error))
        except (HydraException, OmegaConfBaseException) as error:
            return Outcome(case, error=explain(error, case.script, list(case.arguments)))
        except Exception as error:
            traceback.print_exc()
            return Outcome(case, error=f"{type(error).__name__}: {error}")
    outcome = Outcome(case, folder)
    if (folder / COMPLETE).stat().st_mtime >= began:
        outcome = Outcome(case, folder, round(time.time() - began, 1), code)
    facts = {"keys": case.keys, "folder": str(folder), "seconds": outcome.seconds, "commit": outcome.commit}
    write_json(out / "cases" / f"{case.name}.json", facts)
    return outcome


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Let everything that is printed go to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}", file=file, flush=True)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
            sys.stdout.flush()


def commit() -> str:
    """The commit that is checked out here, and whether code or configuration differ from it."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":(top)*.py", ":(top)*.yaml")
        return git("rev-parse", "--short", "HEAD") + (" + uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
