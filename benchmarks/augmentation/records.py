"""The study's memory: what became of every run that was started, and what the report needs of it.

That is small, and kept beside the report: whoever has both can go on with the study, add seeds and data
sets, and write the report anew without the runs' own folders.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.augmentation.plan import Planned
from latent_common.artifacts import read_json, write_json
from latent_env.worlds.store import COMPLETE

STARTED, WHOLE, FAILED, STOPPED, MISSING = "started", "complete", "failed", "stopped", "not started"


NEEDED = ("report.json", "scores.npz", "curves.json")
"""The files of a run that a report is made from; the first is always there."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    state: str
    folder: str | None = None
    seconds: float | None = None
    """What it took when it was made; None where nobody measured."""
    error: str | None = None
    commit: str | None = None
    """The code that made it."""


class Records:
    """``study.json``: written whenever a run starts or ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: dict[str, dict[str, object]] = {}
        self._read()

    def _read(self) -> None:
        """What stands there now: another command may be filling the same folder."""
        if self.path.is_file():
            self.held = read_json(self.path)

    def note(self, run: Planned, outcome: Outcome) -> None:
        """Write down what became of a run; one that is only found again keeps its time and commit."""
        self._read()
        known = self.outcome(run)
        if outcome.seconds is None and known and known.folder == outcome.folder:
            outcome = Outcome(
                outcome.state, outcome.folder, known.seconds, outcome.error, outcome.commit or known.commit
            )
        self.held[run.key] = {"overrides": list(run.overrides), **asdict(outcome)}
        if outcome.state == WHOLE:
            self.keep(run, outcome)
        write_json(self.path, self.held)

    def kept(self, run: Planned) -> Path:
        """Where the report finds what it needs of a run."""
        return self.path.parent / "kept" / run.file_name

    def keep(self, run: Planned, outcome: Outcome) -> None:
        """Copy what the report needs of a run."""
        assert outcome.folder is not None
        kept = self.kept(run)
        kept.mkdir(parents=True, exist_ok=True)
        for name in reversed(NEEDED):  # the first one last: it says that all are there
            source = Path(outcome.folder) / name
            if source.is_file():
                shutil.copyfile(source, kept / name)

    def outcome(self, run: Planned) -> Outcome | None:
        """What became of a run, if it was started with the same keys."""
        held = self.held.get(run.key)
        if held is None or held["overrides"] != list(run.overrides):
            return None
        outcome = Outcome(**{key: value for key, value in held.items() if key != "overrides"})  # type: ignore[arg-type]
        gone = not (self.kept(run) / NEEDED[0]).is_file() and (
            outcome.folder is None or not (Path(outcome.folder) / COMPLETE).is_file()
        )
        return None if outcome.state == WHOLE and gone else outcome

    @property
    def folders(self) -> set[Path]:
        """The folders that are known."""
        return {Path(str(held["folder"])) for held in self.held.values() if held["folder"]}


def commit() -> str:
    """The commit that is checked out here, and whether code or configuration differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":(top)*.py", ":(top)*.yaml")
        return git("rev-parse", "HEAD") + (" + uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
