"""What is wrong with the arguments of a command, as opposed to the configuration that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf

from latent_common.errors import UserError
from stages.cli.choices import choices, groups, title

FLAGS = ("-m", "--multirun", "--cfg", "-c", "--resolve", "--info", "--shell-completion", "-sc")
"""What Hydra understands beside keys and values, and makes sense here."""


SHOWN = ("job", "hydra", "all")


def check_arguments(script: str, arguments: Sequence[str]) -> None:
    """Raise a ``UserError`` for an unknown flag, a key without a value, or a key that is given twice."""
    check_given_once(arguments)
    follows = ""
    for argument in arguments:
        if argument.startswith("-"):
            if argument.partition("=")[0] not in FLAGS:
                raise UserError(
                    f"{argument} is no option of {title(script)}: it has -m, --cfg job and --help, all else "
                    "is given as key=value"
                )
        elif follows in FLAGS[2:4]:
            if argument not in SHOWN:
                raise UserError(f"{follows} {argument}: it shows {', '.join(SHOWN)}, as in --cfg job")
        else:
            _check_value(script, argument)
        follows = argument
    if follows in FLAGS[2:4]:
        raise UserError(f"{follows} is followed by nothing: --cfg job shows every key and its value")


def check_given_once(arguments: Sequence[str]) -> None:
    """Raise a ``UserError`` if two arguments set or remove the same key: Hydra would take the last."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, has_value, _ = argument.lstrip("+~").partition("=")
        if argument.startswith("-") or not (has_value or argument.startswith("~")):
            continue
        if key in given:
            raise UserError(
                f"{key} is given twice, as {given[key]} and {argument}: give it once (with -m, several "
                "values stand in one argument, as in seed=1,2)"
            )
        given[key] = argument


def _check_value(script: str, argument: str) -> None:
    key, has_value, value = argument.lstrip("+~").partition("=")
    if has_value and not key:
        raise UserError(f"{argument} names no key: give it as key=value")
    if has_value and value.startswith("~"):
        raise UserError(f"{argument}: a value that begins with ~ needs quotes, as in \"{key}='{value}'\"")
    if key not in groups(script):
        return
    if argument.startswith(("+", "~")):
        raise UserError(f"{argument}: give it as {key}=<choice>, without {argument[0]}")
    if has_value and (value in ("", "null") or value.startswith(("[", "{"))):
        raise UserError(f"{argument}: choose one of {', '.join(choices(key))}")


def check_truths(cfg: DictConfig, arguments: Sequence[str]) -> None:
    """Raise a ``UserError`` for a number that was given to a key which is true or false.

    :param cfg: what was composed of ``arguments``; there OmegaConf has made true of any number but 0.
    """
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.key_or_group
        if not override.is_delete():
            _check_truth(key, OmegaConf.select(cfg, key), override.value())


def _check_truth(key: str, composed: Any, given: Any) -> None:
    if isinstance(given, dict):
        for name, value in given.items():
            _check_truth(f"{key}.{name}", OmegaConf.select(composed, str(name)), value)
    elif isinstance(composed, bool) and not isinstance(given, bool):
        text = given.text if isinstance(given, QuotedString) else str(given)
        if text.lstrip("+-").isdecimal() and text not in ("0", "1"):
            raise UserError(f"{key}={text} must be true or false")
