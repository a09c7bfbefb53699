"""A script's configuration, put together of its YAML files and a user's arguments."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from conf.schema.runs import register_schema
from stages.cli.arguments import check_truths
from stages.cli.choices import CONF, choices, groups
from stages.cli.defaults import fill_defaults
from stages.cli.renamed import refuse_former_names

DETECTOR = "detector"


def compose(script: str, arguments: Sequence[str]) -> DictConfig:
    """The complete configuration of ``python <script>.py <arguments>``."""
    refuse_former_names(arguments)
    register_schema()
    cfg = _composed(script, with_recommended(script, arguments))
    check_truths(cfg, arguments)
    fill_defaults(cfg)
    return cfg


def with_recommended(script: str, arguments: Sequence[str]) -> list[str]:
    """``arguments``, and the detector that their data set recommends if they name none.

    Several data sets at once (``dataset=mnist,digits -m``) get the one that all data sets begin with.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    dataset = given.get("dataset", "")
    if DETECTOR not in groups(script) or DETECTOR in given or dataset not in choices("dataset"):
        return list(arguments)
    recommended = _composed("prepare", [f"dataset={dataset}"]).dataset.recommended.detector
    return [*arguments, f"{DETECTOR}={recommended}"]


def _composed(script: str, arguments: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(CONF), version_base=None):
        return hydra.compose(script, overrides=list(arguments))
