"""Starting a script with the configuration that files and arguments make, and its help."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema.runs import register_schema
from latent_common.errors import UserError
from stages.cli.arguments import check_arguments, check_truths
from stages.cli.choices import CONF, GROUPS, choices, command, groups, top_level
from stages.cli.compose import compose, with_recommended
from stages.cli.defaults import fill_defaults
from stages.cli.error_messages import explain, key_in_a_list
from stages.cli.mistakes import mistakes_told, quiet_when_unread
from stages.cli.renamed import refuse_former_names

STAGE_HELP = (
    "[group=choice ...] [key=value ...] [-m]",
    [
        "dataset=digits seed=3 device=cpu",
        "dataset=mvtec dataset.category=bottle data_root=/data dataset.size=128",
        "dataset=digits seed=0,1,2 -m    (one run after the other)",
        "--cfg job                       (every key and its value, then stop)",
    ],
    "A finished stage with the same configuration is used again; delete its folder to remake it.",
)
PREPARE_HELP = (
    "<data set> [key=value ...]",
    [
        "bmad_liver data_root=/data",
        "mvtec dataset.category=bottle dataset.size=128",
        "folder dataset.root=mine dataset.on_error=skip",
        "mvtec --cfg job    (every key of a data set and its value, then stop)",
    ],
    "What is prepared is used again; a changed source, size or split is prepared anew.",
)
"""Usage, examples, and what is kept."""


def run_script(main: Callable[[DictConfig], None], script: str, purpose: str | None) -> None:
    """Call ``main`` with the configuration that ``conf/<script>.yaml`` and the user's arguments make.

    A user's mistake is one line and exit code 2, Ctrl-C is exit code 130.
    """
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        with quiet_when_unread():
            print(help_text(script, purpose or ""))
        return
    register_schema()
    # Hydra would print its own message and leave with 1: this makes it pass the exception on.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def guarded(cfg: DictConfig) -> None:
        # Leaving from in here keeps Hydra from announcing the failed job in lines of its own.
        with mistakes_explained(script, arguments):
            check_truths(cfg, HydraConfig.get().overrides.task)
            fill_defaults(cfg)
            main(cfg)

    with mistakes_explained(script, arguments):
        check_arguments(script, arguments)
        refuse_former_names(arguments)
        # Hydra reads them from there.
        sys.argv[1:] = with_recommended(script, arguments)
        if (asked := asked_to_show(arguments)) is not None:
            print(shown(compose(script, asked)), end="")
        else:
            hydra.main(version_base=None, config_path=str(CONF), config_name=script)(guarded)()


def asked_to_show(arguments: list[str]) -> list[str] | None:
    """The keys beside ``--cfg job``, whose complete configuration is to be shown; None for anything else.

    Hydra itself would show keys that are null because they are filled in later.
    """
    for flag in ("--cfg", "-c"):
        if flag in arguments and "job" in arguments[arguments.index(flag) + 1 :][:1]:
            at = arguments.index(flag)
            others = [each for each in arguments[:at] + arguments[at + 2 :] if each != "--resolve"]
            return None if any(each.startswith("-") for each in others) else others
    return None


def shown(cfg: DictConfig) -> str:
    """A configuration as YAML, without what its choices recommend: that is filled in already."""
    groups = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(groups, dict)
    for group in groups.values():
        if isinstance(group, dict):
            group.pop("recommended", None)
    return OmegaConf.to_yaml(OmegaConf.create(groups))


@contextmanager
def mistakes_explained(script: str, arguments: list[str]) -> Iterator[None]:
    """What :func:`mistakes_told` does, for mistakes in a configuration too."""
    with mistakes_told(script):
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain(error, script, arguments)) from error
        except ValueError as error:
            if (mistake := key_in_a_list(error, arguments)) is None:
                raise
            raise UserError(mistake) from error


def help_text(script: str, purpose: str) -> str:
    """What ``--help`` prints."""
    usage, examples, end = PREPARE_HELP if script == "prepare" else STAGE_HELP
    lines = [
        purpose.strip(),
        "",
        f"usage: {command(script)} {usage}",
        "",
        "Groups and their choices:",
    ]
    for group in groups(script):
        lines.append(f"  {group}: {GROUPS[group]}")
        offered = choices(group)
        width = max(len(name) for name in offered)
        lines += [f"    {name:{width}}  {about}" for name, about in offered.items()]
    lines += ["", "Keys and their defaults:"]
    lines += [f"  {line}" for line in top_level(script)]
    lines += [
        "",
        "Examples:",
        *(f"  {command(script)} {example}" for example in examples),
        "",
        end,
    ]
    return "\n".join(lines)
