"""The choices that the YAML files offer, read from the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"

GROUPS = {
    "agent": "what chooses the changes",
    "autoencoder": "what encodes an image as a latent, and decodes it",
    "dataset": "where the images come from",
    "detector": "what tells abnormal images from normal ones",
    "env": "what an agent changes",
    "reward": "what an agent is paid for",
    "synthesis": "how detectors' synthetic anomalies are made",
}
"""The groups of choices, and what each is about."""

COMMANDS = {
    "prepare": "python -m stages.prepare",
    "offline": "python -m stages.offline",
    "predict": "latent-aug predict",
    "export": "latent-aug export",
    "app": "latent-aug app",
    "runs": "latent-aug runs",
    "completion": "latent-aug completion",
}
"""How a script is called, where that isn't ``python <script>.py``."""


def call_as(script: str, called: str) -> None:
    """From now on help and messages say that ``script`` is called so."""
    COMMANDS[script] = called


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
        if not path.stem.startswith("_")  # what several choices share
    }


def groups(script: str) -> list[str]:
    """The groups that a script composes."""
    defaults = (CONF / f"{script}.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    return [name for name in GROUPS if f"- {name}:" in defaults]


def top_level(script: str) -> list[str]:
    """The lines of the keys that stand in no group, comments included."""
    own = (CONF / f"{script}.yaml").read_text(encoding="utf-8")
    shared = [CONF / f"{path}.yaml" for path in re.findall(r"- (shared/\w+)@", own)]
    text = own.partition("\n\n")[2].partition("hydra:")[0]
    texts = [text, *(path.read_text(encoding="utf-8").partition("\n")[2] for path in shared)]
    return [line for text in texts for line in text.splitlines() if line.strip()]
