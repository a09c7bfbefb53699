"""A script's configuration, put together of its YAML files and a user's arguments."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from conf.schema.runs import register_schema
from stages.cli.arguments import check_truths
from stages.cli.choices import CONF
from stages.cli.defaults import fill_defaults
from stages.cli.renamed import refuse_former_names


def compose(script: str, arguments: Sequence[str]) -> DictConfig:
    """The complete configuration of ``python <script>.py <arguments>``."""
    refuse_former_names(arguments)
    register_schema()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = hydra.compose(script, overrides=list(arguments))
    check_truths(cfg, arguments)
    fill_defaults(cfg)
    return cfg
