"""Starting a script: its help, and one clear line instead of a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from conf.schema.runs import register_schema
from latent_common.errors import UserError
from stages.cli.choices import CONF, choices, command, groups, title, top_level
from stages.cli.error_messages import explain

MISTAKE, INTERRUPTED = 2, 130

STAGE_EXAMPLES = [
    "dataset=digits seed=3 device=cpu",
    "dataset=mvtec dataset.category=bottle data_root=/data dataset.size=128",
    "dataset=digits seed=0,1,2 -m    (one run after the other)",
    "--cfg job                       (the whole configuration, then stop)",
]
LABELLED_ANOMALIES = {
    "prepare": [
        "bmad_liver data_root=/data",
        "mvtec dataset.category=bottle dataset.size=128",
        "folder dataset.root=mine dataset.on_error=skip",
        "mvtec --cfg job                 (all keys of a data set, then stop)",
    ]
}
KEPT = {"prepare": "What is prepared is used again; a changed source, size or split is prepared anew."}


def run_script(main: Callable[[DictConfig], None], script: str, purpose: str | None) -> None:
    """Let Hydra compose ``conf/<script>.yaml`` and call ``main`` with it.

    A user's mistake is one line and exit code 2, Ctrl-C is exit code 130.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(help_text(script, purpose or ""))
        return
    register_schema()
    # Hydra would print its own message and leave with 1: this makes it pass the exception on.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def guarded(cfg: DictConfig) -> None:
        # Leaving from in here keeps Hydra from announcing the failed job in lines of its own.
        with mistakes_explained(script, arguments):
            main(cfg)

    with mistakes_explained(script, arguments):
        hydra.main(version_base=None, config_path=str(CONF), config_name=script)(guarded)()


@contextmanager
def mistakes_explained(script: str, arguments: list[str]) -> Iterator[None]:
    """Turn what a user can cause into a line and an exit code; anything else stays a traceback."""
    try:
        yield
    except UserError as error:
        _leave(str(error), script)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(explain(error, script, arguments), script)
    except OSError as error:
        _leave(f"the system refused: {error}", script)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from what is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _leave(message: str, script: str) -> None:
    print(f"{title(script)}: {message}", file=sys.stderr)
    sys.exit(MISTAKE)


def help_text(script: str, purpose: str) -> str:
    """What ``--help`` prints."""
    lines = [
        purpose.strip(),
        "",
        f"usage: {command(script)} [group=choice ...] [key=value ...] [-m]",
        "",
        "Groups and their choices:",
    ]
    for group in groups(script):
        lines.append(f"  {group}")
        offered = choices(group)
        width = max(len(name) for name in offered)
        lines += [f"    {name:{width}}  {about}" for name, about in offered.items()]
    lines += ["", "Keys and their defaults:"]
    lines += [f"  {line}" for line in top_level(script)]
    lines += [
        "",
        "Examples:",
        *(f"  {command(script)} {example}" for example in LABELLED_ANOMALIES.get(script, STAGE_EXAMPLES)),
        "",
        KEPT.get(
            script,
            "A finished stage with the same configuration is used again; delete its folder to remake it.",
        ),
    ]
    return "\n".join(lines)
