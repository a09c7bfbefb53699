"""The choices that the YAML files offer, read from the files themselves."""

from __future__ import annotations

from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"


COMMANDS = {"prepare": "python -m stages.prepare"}
"""How a script is called, where that isn't ``python <script>.py``."""


def command(script: str) -> str:
    """How a user calls a script."""
    return COMMANDS.get(script, f"python {script}.py")


def title(script: str) -> str:
    """What a script is called in its messages."""
    return command(script).split()[-1]


def choices(group: str) -> dict[str, str]:
    """The choices of a group, each with what the first comment of its file says."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for path in sorted((CONF / group).glob("*.yaml"))
    }


def groups(script: str) -> list[str]:
    """The groups that a script composes."""
    defaults = (CONF / f"{script}.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    folders = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    return [name for name in folders if f"- {name}:" in defaults]


def top_level(script: str) -> list[str]:
    """The lines of a script's own keys, comments included."""
    text = (CONF / f"{script}.yaml").read_text(encoding="utf-8")
    body = text.partition("\n\n")[2].partition("\nhydra:")[0]
    return [line for line in body.splitlines() if line.strip()]
