"""Running a plan: in what order, on how many processes, and what is kept of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import MISSING, STARTED, STOPPED, WHOLE, Outcome, Records, commit
from benchmarks.augmentation.running import Perform, job_of, perform, quiet
from benchmarks.augmentation.workers import Workers
from latent_common.progress import progress_bar
from latent_env.worlds.store import COMPLETE
from stages.augmentation.stage import agent_run


@dataclass
class Batch:
    """Runs that one process makes one after the other, once those that ``after`` names are done."""

    name: str
    runs: deque[Planned] = field(default_factory=deque)
    after: str | None = None


def batches(runs: Iterable[Planned]) -> list[Batch]:
    """The runs in parts that can be made at the same time, without two making the same thing.

    All runs of a seed share its autoencoder and first detectors: one batch. Prepared images, and what
    pretrained eyes see in them, are shared by all seeds: so of each kind one run of a data set goes first.
    """
    found: dict[str, Batch] = {}
    met: set[tuple[str, ...]] = set()
    for run in runs:
        first, rest = run.dataset, f"{run.dataset}/{run.setting}/{run.seed}"
        leads = run.before not in met
        met.add(run.before)
        batch = Batch(first) if leads else Batch(rest, after=first)
        found.setdefault(batch.name, batch).runs.append(run)
    return list(found.values())


class Study:
    """A plan on its way: hands out runs, and writes down what became of them."""

    def __init__(self, runs: Iterable[Planned], records: Records, logs: Path) -> None:
        self.waiting = batches(runs)
        self.records, self.logs, self.commit = records, logs, commit()
        self.unfinished = {batch.name: len(batch.runs) for batch in self.waiting}
        self.total = sum(self.unfinished.values())
        self.bar = progress_bar("runs", self.total)

    def take(self) -> Batch | None:
        """The next batch that may begin."""
        for batch in self.waiting:
            if not self.unfinished.get(batch.after or "", 0):
                self.waiting.remove(batch)
                return batch
        return None

    def give_back(self, batch: Batch) -> None:
        """What is left of a batch, for another process."""
        if batch.runs:
            self.waiting.insert(0, batch)

    def begin(self, run: Planned) -> Path:
        """Note that a run was started; returns where its words go."""
        self.bar.set_postfix_str(run.key)
        known = self.records.outcome(run)
        if known is None or known.state != WHOLE:
            self.records.note(run, Outcome(STARTED, commit=self.commit))
        return self.logs / f"{run.file_name}.log"

    def end(self, batch: Batch, run: Planned, outcome: Outcome) -> None:
        """Note what became of it."""
        made = outcome.seconds is not None
        self.records.note(run, replace(outcome, commit=self.commit) if made else outcome)
        self.unfinished[batch.name] -= 1
        self.bar.update()

    def run(self, jobs: int, perform: Perform) -> None:
        """Make all runs; Ctrl-C is a KeyboardInterrupt once everything is at rest."""
        with self.bar:
            if jobs > 1:
                Workers(self, jobs, perform).run()
            else:
                self.run_here(perform)

    def run_here(self, perform: Perform) -> None:
        """Make all runs in this process."""
        while (batch := self.take()) is not None:
            while batch.runs:
                run = batch.runs.popleft()
                outcome = perform(run, self.begin(run))
                self.end(batch, run, outcome)
                if outcome.state == STOPPED:
                    raise KeyboardInterrupt


def make(runs: Iterable[Planned], out: Path, jobs: int = 1, perform: Perform = perform) -> None:
    """Make all runs that aren't there; what becomes of them is in ``<out>/study.json``."""
    records = Records(out / "study.json")
    missing = [run for run in runs if (known := records.outcome(run)) is None or known.state != WHOLE]
    Study(missing, records, out / "logs").run(jobs, perform)


def find(runs: Iterable[Planned], out: Path, folder: Path) -> None:
    """Note which of the runs were made elsewhere and lie below ``folder``."""
    records = Records(out / "study.json")
    whole = {path.parent for path in folder.glob(f"*/agent/*/{COMPLETE}")}
    unknown = whole - records.folders
    missing = [run for run in runs if (known := records.outcome(run)) is None or known.state != WHOLE]
    if not unknown or not missing:
        return
    with progress_bar("looking for runs", len(missing)) as bar:
        for run in missing:
            outcome = look_for(run, out / "logs" / "looking.log")
            if outcome.state == WHOLE:
                records.note(run, outcome)
            bar.update()


def look_for(run: Planned, log: Path) -> Outcome:
    """Whether a run is there."""
    # To find a folder nothing is computed, and what number of threads would be best takes a while to measure.
    run = replace(run, place=(*run.place, "threads=1"))
    with quiet(log):
        try:
            found = agent_run(job_of(run))
        except Exception as error:
            return Outcome(MISSING, error=f"{type(error).__name__}: {error}")
    return Outcome(WHOLE if found.complete else MISSING, str(found.path))
