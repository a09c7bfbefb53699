"""Hydra's and OmegaConf's exceptions in one line: the key, the value, and the choices."""

from __future__ import annotations

import re
import traceback
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from stages.cli.choices import choices, groups, title
from stages.cli.compose import compose

EXPECTED = {
    "Integer": "a whole number",
    "Float": "a number",
    "str": "text",
}


def explain(error: Exception, script: str, arguments: list[str]) -> str:
    """One line that says which argument is wrong and what would be right."""
    text = _full_text(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: can't be read as key=value (quote values with spaces or commas)"
    if match := re.search(r"(?:Could not find|In) '(\w+)/([^']*)'", text):
        group, choice = match.groups()
        if group in groups(script) and choice not in choices(group):
            return f"{group}={choice} is unknown: choose one of {', '.join(choices(group))}"
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match.group(1), script, arguments)
    if match := re.search(r"Environment variable '(\w+)' not found", text):
        return f"{_holding(arguments, match.group(1))}: the environment variable {match.group(1)} is not set"
    if match := re.search(r"Interpolation key '([^']+)' not found", text):
        return f"{_holding(arguments, match.group(1))}: there is no key {match.group(1)} to take a value from"
    if match := re.search(r"An item is already at '([^']+)'", text):
        return f"{_value_of(match.group(1), arguments)}: {match.group(1)} is there already, leave + away"
    if match := re.search(r"full_key: (\S+)", text):
        return _wrong_value(match.group(1), text, arguments)
    if match := re.search(r"Ambiguous value for argument '(.*?)'", text):
        return (
            f"{match.group(1)}: several values need -m (a run for each), or brackets [] where they are a list"
        )
    if match := re.search(r"missing \d+ required positional arguments?: '(\w+)'", text):
        return f"{match.group(1)} must have a value: leave ~ away"
    return " ".join(text.split())


def key_in_a_list(error: ValueError, arguments: list[str]) -> str | None:
    """One line on a key such as ``plugins.x``, which takes a list for a group; None for any other error.

    OmegaConf takes the last part of such a key for a position in the list, and fails to make a number of it.
    """
    *_, last = traceback.extract_tb(error.__traceback__)
    number = re.search(r"invalid literal for int\(\) with base 10: '([^']*)'", str(error))
    if number is None or "omegaconf" not in last.filename:
        return None
    for argument in arguments:
        above, _, part = argument.lstrip("+~").partition("=")[0].rpartition(".")
        if above and part == number.group(1):
            return f"{argument}: {above} is a list: give all of it, as in {above}=[…]"
    return None


def _full_text(error: BaseException) -> str:
    parts = []
    current: BaseException | None = error
    while current is not None:
        parts.append(str(current))
        current = current.__cause__
    return "\n".join(parts)


def _value_of(key: str, arguments: list[str], value: str | None = None) -> str:
    """``key=value`` as the user wrote it, or the key alone; of several the one with ``value`` or the last."""
    given = [argument for argument in arguments if argument.lstrip("+~").partition("=")[0] == key]
    exact = [argument for argument in given if argument.partition("=")[2] == value]
    return [key, *given, *exact][-1]


def _holding(arguments: list[str], part: str) -> str:
    """The argument that holds ``part``."""
    return next((argument for argument in arguments if part in argument), part)


def _unknown_key(key: str, script: str, arguments: list[str]) -> str:
    given = _value_of(key, arguments)
    config = _composed(script, arguments)
    node: Any = config
    known = ""
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            break
        known = f"{known}.{part}" if known else part
        node = node[part]
    if choices(key) and key not in config:
        return f"{given}: {title(script)} has no {key}; its groups are {', '.join(groups(script))}"
    if not isinstance(node, DictConfig):
        return f"{given}: {known} is a single value, it has no keys of its own"
    where = f"{known} has" if known else f"{title(script)} has"
    text = f"{given} is an unknown key: {where} {', '.join(sorted(map(str, node)))}"
    # A table takes further keys, if one says that they are meant to be further ones.
    return f"{text}; +{given} adds it" if OmegaConf.get_type(node) is dict and known else text


def _composed(script: str, arguments: list[str]) -> DictConfig:
    """The configuration with the user's groups but without their values, to see what there is."""
    selected = []
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if group in groups(script) and choice in choices(group):
            selected.append(argument)
    return compose(script, selected)


def _wrong_value(key: str, text: str, arguments: list[str]) -> str:
    given = _value_of(key, arguments)
    for argument in arguments:
        if argument.startswith(f"{key}.") and "of type 'dict'" in text:
            return f"{argument}: {key} is a single value, it has no keys of its own"
    if "is not a valid bool" in text:
        return f"{given} must be true or false"
    if match := re.search(r"Value '(.*?)' .*could not be converted to (\w+)", text):
        given = _value_of(key, arguments, match.group(1))
        if "=" not in given:
            given = f"{key}={match.group(1)}"
        return f"{given} must be {EXPECTED.get(match.group(2), match.group(2))}"
    if "is not Optional" in text:
        return f"{given}: this key can't be null"
    if "is not a subclass of" in text:
        return f"{given}: set the keys below it, as {key}.<name>=<value>"
    if "is not a ListConfig, list or tuple" in text:
        return f"{given} must be a list, such as {key}=[{given.partition('=')[2]}]"
    if "to string" in text:
        return f"{given} must be text"
    if "Missing mandatory value" in text:
        return f"{key} is missing: give it as {key}=…"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if not line.startswith("Error merging")), "is not valid")
    return f"{given}: {reason}"
