"""From a composed configuration to a checked object."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf

from conf.schema.fields import FileName, Limits
from conf.schema.runs import DataRun
from latent_common.errors import UserError
from latent_common.files import check_file_name

C = TypeVar("C", bound=DataRun)


def read_config(cfg: DictConfig, kind: type[C]) -> C:
    """A composed configuration as an object, once its numbers and keys are checked."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    check_values(config)
    for key in ("runs", "export"):
        if getattr(config, key, None):
            setattr(config, key, os.path.expanduser(getattr(config, key)))
    for path in unknown_keys(OmegaConf.to_container(cfg), asdict(config)):
        raise UserError(f"+{path}=… is an unknown key: nothing would read it")
    return config


def check_values(config: object, above: str = "") -> None:
    """Reject a number or name that its key's mark doesn't allow, wherever it stands."""
    for key, kind in get_type_hints(type(config), include_extras=True).items():
        value, path = getattr(config, key), f"{above}{key}"
        if is_dataclass(value):
            check_values(value, f"{path}.")
        for mark in getattr(kind, "__metadata__", ()):
            if isinstance(mark, FileName) and (value or not mark.optional):
                check_file_name(value, path)
            if isinstance(mark, Limits):
                _check_limits(mark, value, path)


def _check_limits(limits: Limits, value: Any, path: str) -> None:
    """Raise a ``UserError`` unless ``value``, or each that a list or table holds, is one of ``limits``."""
    if isinstance(value, dict):
        for key, each in value.items():
            _check_limits(limits, each, f"{path}.{key}")
    elif isinstance(value, list):
        for each in value:
            if each is None or not limits.hold(each):
                raise UserError(f"{path}={value}: each must {_expected(limits, each)}")
    elif value is not None and not limits.hold(value):
        given = f"{value:g}" if isinstance(value, float) else value
        raise UserError(f"{path}={given} must {_expected(limits, value)}")


def _expected(limits: Limits, value: float) -> str:
    if limits.most < math.inf and limits.least > -math.inf:
        return f"lie from {limits.least} to {limits.most}"
    if limits.below < math.inf:
        return f"lie from {limits.least} to below {limits.below}"
    if limits == Limits():
        return "be a finite number"
    found = f"be at least {limits.least}" if limits.least > -math.inf else f"be above {limits.above}"
    if limits.most < math.inf:
        return f"{found} and at most {limits.most}"
    return f"{found} and finite" if value == math.inf else found


def unknown_keys(given: Any, known: Any, above: str = "") -> Iterator[str]:
    """Keys of ``given`` that ``known`` doesn't have: ``+key=…`` gets past Hydra's own check."""
    for key, value in given.items():
        if key not in known:
            yield f"{above}{key}"
        elif isinstance(value, dict):
            yield from unknown_keys(value, known[key], f"{above}{key}.")
