"""Starting a script: its help, and one clear line instead of a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from conf.mistakes import explain
from conf.schema import register_schema
from detectors.errors import UserError

CONF = Path(__file__).parent
MISTAKE, INTERRUPTED = 2, 130


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
    except KeyboardInterrupt:
        print(
            "\nstopped; what was done so far is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)


def _leave(message: str, script: str) -> None:
    print(f"{script}.py: {message}", file=sys.stderr)
    sys.exit(MISTAKE)


def groups(script: str) -> dict[str, dict[str, str]]:
    """The config groups of a script, each with its choices and what the first comment says of them."""
    text = (CONF / f"{script}.yaml").read_text(encoding="utf-8")
    defaults = text.partition("\n\n")[0]
    found = {}
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        if f"- {folder.name}:" in defaults:
            found[folder.name] = {
                path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
                for path in sorted(folder.glob("*.yaml"))
            }
    return found


def _top_level(script: str) -> list[str]:
    """The lines of the script's own keys, comments included."""
    text = (CONF / f"{script}.yaml").read_text(encoding="utf-8")
    body = text.partition("\n\n")[2].partition("\nhydra:")[0]
    return [line for line in body.splitlines() if line.strip()]


def help_text(script: str, purpose: str) -> str:
    """What ``--help`` prints."""
    lines = [
        purpose.strip(),
        "",
        f"usage: python {script}.py [group=choice ...] [key=value ...] [-m]",
        "",
        "Groups and their choices:",
    ]
    for group, choices in groups(script).items():
        lines.append(f"  {group}")
        width = max(len(name) for name in choices)
        lines += [f"    {name:{width}}  {about}" for name, about in choices.items()]
    lines += ["", "Keys and their defaults:"]
    lines += [f"  {line}" for line in _top_level(script)]
    lines += [
        "",
        "Examples:",
        f"  python {script}.py dataset=digits seed=3 device=cpu",
        f"  python {script}.py dataset=folder dataset.root=/data/mvtec/bottle dataset.size=128",
        f"  python {script}.py dataset=digits seed=0,1,2 -m    (one run after the other)",
        f"  python {script}.py --cfg job                       (the whole configuration, then stop)",
        "",
        "A finished stage with the same configuration is used again; delete its folder to remake it.",
    ]
    return "\n".join(lines)
