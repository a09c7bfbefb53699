"""What train_detector.py and train_ppo.py do, in this process, for a run of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from benchmarks.cases import Case, Script
from conf.schema.runs import AgentRun, DetectorRun
from latent_common.errors import UserError
from stages.cli.compose import compose
from stages.cli.error_messages import explain
from stages.context import start
from stages.detector.plan import plan_detector
from stages.experiment import plan_experiment
from stages.plugins import import_plugins
from stages.training_data import load_training_data


def composed(case: Case) -> DictConfig:
    """The configuration that the script gets."""
    return compose(case.script, case.arguments)


def check_keys(cases: Iterable[Case]) -> None:
    """Complain about keys that no run could have; the first run of every place stands for all of them."""
    firsts: dict[tuple[str, ...], Case] = {}
    for case in cases:
        if case.script in SCRIPTS and firsts.setdefault(case.place, case) is case:
            try:
                composed(case)
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(explain(error, case.script, list(case.arguments))) from error


def train_detector(case: Case) -> Path:
    """The folder of a detector's run."""
    config, context = start(composed(case), DetectorRun)
    data = load_training_data(config, context)
    detector = plan_detector(config, context, data).train()
    detector.evaluate()
    return detector.run.path


def train_ppo(case: Case) -> Path:
    """The folder of an agent's run."""
    config, context = start(composed(case), AgentRun)
    import_plugins(config.plugins)
    data = load_training_data(config, context)
    experiment = plan_experiment(config.env, config, context, data)
    experiment.perform()
    return experiment.run.path


SCRIPTS: dict[str, Script] = {"train_detector": train_detector, "train_ppo": train_ppo}
