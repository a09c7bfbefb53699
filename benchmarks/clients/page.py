"""What a page shows of libraries: what to install, and the blocks that train."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

OR = re.compile(r"(?:import|=) (.+?)  # or (.+)$", re.MULTILINE)
"""A name that is imported, or a value, and in a comment what may stand in its place."""


class Step(NamedTuple):
    """A fenced block, in the language that its fence names."""

    language: str
    text: str


@dataclass(frozen=True)
class Client:
    """What is run once: the blocks below a heading, with one choice where they offer several."""

    name: str
    """Letters, digits and ``_``."""
    title: str
    section: str
    """Clients of one section share an environment."""
    installs: tuple[tuple[str, ...], ...]
    """What follows ``pip install`` in the section, a tuple a line."""
    steps: tuple[Step, ...]


@dataclass
class _Part:
    """The blocks below a heading."""

    title: str
    steps: list[Step] = field(default_factory=list)


def read_page(path: Path) -> list[Client]:
    """The clients of a page, in its order.

    Every heading of the second level is a section, and every heading below it a client of its own.
    """
    found = []
    for section, parts in _sections(path.read_text(encoding="utf-8")):
        blocks = [step for part in parts for step in part.steps]
        commands = [command for step in blocks if step.language == "sh" for command in commands_of(step.text)]
        installs = tuple(tuple(words[2:]) for words in commands if is_install(words))
        for part in parts:
            if any(_runs(step) for step in part.steps):
                titles = [section] if part.title == section else [section, part.title]
                found += [*_variants(titles, slug(section), installs, part.steps)]
    return found


def commands_of(text: str) -> list[list[str]]:
    """The words of every command of a shell block, continued lines joined, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_install(words: Sequence[str]) -> bool:
    """Whether a command installs packages."""
    return list(words[:2]) == ["pip", "install"]


def slug(text: str) -> str:
    """Text as a name: lower case, with ``_`` for all but letters and digits."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def _sections(text: str) -> Iterator[tuple[str, list[_Part]]]:
    section, parts = "", [_Part("")]  # what comes before the first section is none
    language, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("```"):
            if language:
                parts[-1].steps.append(Step(language, "\n".join(lines) + "\n"))
            language, lines = ("" if language else line[3:].strip()), []
        elif language:
            lines.append(line)
        elif line.startswith("## "):
            if section:
                yield section, parts
            section = line[3:].strip()
            parts = [_Part(section)]
        elif line.startswith("### "):
            parts.append(_Part(line[4:].strip()))
    if section:
        yield section, parts


def _runs(step: Step) -> bool:
    """Whether a block does something beside installing."""
    commands = commands_of(step.text) if step.language == "sh" else []
    return step.language == "python" or any(not is_install(words) for words in commands)


def _variants(
    titles: list[str], section: str, installs: tuple[tuple[str, ...], ...], steps: list[Step]
) -> Iterator[Client]:
    """The client of a heading, or one for each choice that its blocks offer."""
    offered = next((match for step in steps if (match := OR.search(step.text))), None)
    if offered is None:
        yield Client("_".join(map(slug, titles)), ", ".join(titles), section, installs, tuple(steps))
        return
    usual, others = offered.groups()
    for choice in (usual, *others.split(" or ")):
        short = _short(choice)
        parts = [re.split(rf"(?<!\w){re.escape(usual)}(?!\w)", step.text) for step in steps]
        chosen = [Step(step.language, choice.join(each)) for step, each in zip(steps, parts, strict=True)]
        name, title = "_".join(map(slug, (*titles, short))), ", ".join((*titles, short))
        yield Client(name, title, section, installs, tuple(chosen))


def _short(choice: str) -> str:
    """``make`` of ``gym.make("LatentAug-v0")``: the last part of the first dotted name."""
    match = re.search(r"[\w.]+", choice)
    assert match is not None
    return match.group().rpartition(".")[2]
