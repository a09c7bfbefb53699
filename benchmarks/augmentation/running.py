"""One run of the study: what train_ppo.py would do, in this process and without a word on the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import FAILED, STOPPED, WHOLE, Outcome
from benchmarks.augmentation.tables import AGENTS
from conf.schema.runs import AgentRun, register_schema
from latent_common.errors import UserError
from latent_env.data import Dataset
from stages.augmentation.stage import agent_run, agent_stage, import_plugins
from stages.cli.choices import CONF
from stages.cli.error_messages import explain
from stages.cli.launch import mistakes_explained
from stages.context import Job, start_job

Perform = Callable[[Planned, Path], Outcome]
"""Makes a run and says what became of it; what it prints goes to the file."""

_images: dict[tuple[str, ...], Dataset] = {}
"""Those of the last run: finding them again may take seconds."""


def composed(run: Planned) -> DictConfig:
    """The configuration of a run, as train_ppo.py gets it."""
    register_schema()
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose("train_ppo", run.arguments)


def check_keys(runs: Iterable[Planned]) -> None:
    """Complain about keys that no run could have; the first run of every data set stands for all of them."""
    firsts: dict[str, Planned] = {}
    for run in runs:
        if firsts.setdefault(run.dataset, run) is run:
            with mistakes_explained("train_ppo", run.arguments):
                composed(run)


def job_of(run: Planned) -> Job[AgentRun]:
    """The command of a run, with the images of the one before if it had the same."""
    job = start_job(composed(run), AgentRun)
    import_plugins(job)
    own = (*AGENTS[run.agent], f"seed={run.seed}")
    shared = tuple(argument for argument in run.arguments if argument not in own)
    if shared not in _images:
        _images.clear()
        _images[shared] = job.dataset
    job.dataset = _images[shared]
    return job


def perform(run: Planned, log: Path) -> Outcome:
    """Make a run unless it is there already; whatever goes wrong is an outcome too."""
    began = time.monotonic()
    with quiet(log):
        try:
            job = job_of(run)
            if (found := agent_run(job)).complete:
                return Outcome(WHOLE, str(found.path))
            folder = str(agent_stage(job).path)
            return Outcome(WHOLE, folder, time.monotonic() - began)
        except KeyboardInterrupt:
            return Outcome(STOPPED, error="stopped by Ctrl-C")
        except Exception as error:
            traceback.print_exc()
            return Outcome(FAILED, error=message(error, run), seconds=time.monotonic() - began)


def message(error: Exception, run: Planned) -> str:
    """One line for the list of what failed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error, "train_ppo", run.arguments)
    return f"{type(error).__name__}: {error}".strip()


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Let everything that is printed go to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}", file=file, flush=True)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
            sys.stdout.flush()
