"""`latent-aug completion`: a script that lets bash and zsh complete commands, keys, choices and files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.cli.choices import choices, groups, top_level

SCRIPTS = {"train": "train_ppo", "demo": "train_ppo", "data": "prepare"}
"""Commands whose arguments are keys and choices."""

SCRIPT = """\
if [ -n "$ZSH_VERSION" ]; then autoload -Uz compinit bashcompinit && compinit -u && bashcompinit; fi
_latent_aug() {{
  local line=${{COMP_LINE:0:$COMP_POINT}} verb=${{COMP_WORDS[1]}} words="" current
  current=${{line##* }}
  if [ "$COMP_CWORD" -eq 1 ]; then words="{verbs}"
  else case $verb in
{cases}
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ "$COMP_CWORD" -gt 1 ] && [ ${{#COMPREPLY[@]}} -eq 0 ]; then
    COMPREPLY=($(compgen -f -- "${{current##*=}}"))
  elif [[ $current == *=* ]]; then COMPREPLY=("${{COMPREPLY[@]#"${{current%=*}}="}}"); fi
}}
complete -o filenames -o nospace -F _latent_aug latent-aug
"""


def script(verbs: Sequence[str]) -> str:
    """The script for commands with these names."""
    from stages.app.command import make_parser as app_parser
    from stages.cli.run_table import make_parser as runs_parser
    from stages.export.arguments import make_parser as export_parser
    from stages.predict.arguments import make_parser as predict_parser

    words = {verb: _keys(name) for verb, name in SCRIPTS.items()}
    parsers = {
        "predict": predict_parser(),
        "export": export_parser(),
        "app": app_parser(),
        "runs": runs_parser(),
    }
    words |= {verb: " ".join(parser._option_string_actions) for verb, parser in parsers.items()}
    cases = "\n".join(f'    {verb}) words="{offered}";;' for verb, offered in words.items())
    return SCRIPT.format(verbs=" ".join([*verbs, "--help", "--version"]), cases=cases)


def _keys(script: str) -> str:
    """Choices as ``group=choice``, and keys of no group as ``key=``."""
    chosen = [f"{group}={name}" for group in groups(script) for name in choices(group)]
    keys = [match.group(1) for line in top_level(script) if (match := re.match(r"(\w+):", line))]
    return " ".join([*chosen, *(f"{key}=" for key in keys), "--help", "--cfg"])
