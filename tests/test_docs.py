"""The documentation holds: its code runs, its commands compose, and its keys, paths and links exist."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from stable_baselines3 import PPO

import latent_aug
from benchmarks.augmentation import choices as study
from benchmarks.command import choose
from benchmarks.detectors import STUDIES
from conf.schema.runs import DataRun
from detectors.rdna import RdnaDetector
from detectors.reconstruction import ReconstructionDetector
from latent_common.errors import UserError
from latent_env.autoencoders import FrozenAutoencoder, MemoryAutoencoder
from latent_env.perturbations.base import perturbations
from latent_env.rewards.base import reward_terms
from latent_env.worlds.artifacts import save_autoencoder, save_detector
from stages.app.command import read_options as read_app
from stages.cli.checks import read_config
from stages.cli.choices import CONF, GROUPS, choices
from stages.cli.compose import compose
from stages.cli.error_messages import explain
from stages.export.arguments import read_options as read_export
from stages.predict.arguments import read_options
from stages.prepare import with_dataset

PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md"))
]
HISTORY = {"CHANGELOG.md", "docs/what-did-not-work.md"}
"""Pages that name what is gone."""

LANGUAGES = {"python", "sh", "yaml", "text", "mermaid", "toml", "json", "bibtex"}
SCRIPTS = {path.stem for path in CONF.glob("*.yaml")}
TOP_LEVEL = [*CONF.glob("*.yaml"), *CONF.glob("shared/*.yaml")]
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")}
FOLDERS = PACKAGES | {"docs", "results", "results-ipynb", "tests"}
OTHER_PROGRAMS = {"cd", "export", "git", "mkdir", "source", "tensorboard"}
"""What a command may begin with that is not ours to check."""


CLIENTS = {"cleanrl", "minari", "pufferlib", "ray", "rl_zoo3", "sb3_contrib", "skrl", "tianshou", "torchrl"}
"""Libraries whose blocks ``benchmarks.clients`` runs; here they are compiled."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def split_page(page: str) -> tuple[list[Block], str]:
    """The fenced blocks of a page, and its prose with an empty line in place of each of their lines."""
    blocks, prose, lines = [], [], []
    fence: tuple[int, str] | None = None
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip().startswith("```"):
            if fence is None:
                fence, lines = (number, line.strip()[3:]), []
            else:
                blocks.append(Block(page, *fence, "\n".join(lines) + "\n"))
                fence = None
        elif fence is not None:
            lines.append(line)
        prose.append("" if fence is not None or line.strip().startswith("```") else line)
    assert fence is None, f"{page}:{fence}: a fence that nothing closes"
    return blocks, "\n".join(prose)


def commands_of(block: Block) -> Iterator[str]:
    """The commands of a shell block, continued lines joined, without comments."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield shlex.join(words)


def inline_code(prose: str) -> list[str]:
    """What stands in single backticks; a span may go on in the next line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


SPLIT = {page: split_page(page) for page in PAGES}
BLOCKS = [block for blocks, _ in SPLIT.values() for block in blocks]
INLINE = sorted({(page, span) for page, (_, prose) in SPLIT.items() for span in inline_code(prose)})


def all_commands() -> dict[str, str]:
    """Every command of every page, with one place where it stands."""
    found = {}
    for block in BLOCKS:
        if block.language == "sh":
            found |= dict.fromkeys(commands_of(block), block.place)
    for page, span in INLINE:
        if span.split()[0] in ("python", "make", "pip", "latent-aug") and page not in HISTORY and " " in span:
            found[shlex.join(shlex.split(re.sub(r"<[^>]*>|…", "x", span)))] = page
    return found


COMMANDS = all_commands()


def test_every_block_names_its_language() -> None:
    unknown = [f"{block.place} {block.language!r}" for block in BLOCKS if block.language not in LANGUAGES]
    assert not unknown, f"tag these with one of {sorted(LANGUAGES)}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("yaml", "toml", "json")])
def test_data_blocks_can_be_read(block: Block) -> None:
    {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}[block.language](block.text)


# -- Python --


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "python"}))
def test_python_blocks_run_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small budgets in place of large ones, and untrained networks where a page names a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(PPO.__init__, "__defaults__", short_rollouts())
    names: dict[str, object] = {}
    for block in BLOCKS:
        if block.language != "python" or block.page != page:
            continue
        if match := re.match(r"# (\w+\.py)\n", block.text):
            (tmp_path / match.group(1)).write_text(block.text)
            sys.modules.pop(match.group(1)[:-3], None)
            continue
        for run in re.findall(r'"(runs/[^"]+)"', block.text):
            make_run(Path(run))
        if CLIENTS & libraries_of(block.text):
            compile(block.text, block.place, "exec")
            continue
        code = re.sub(r"\b\d+_000\b|(?<=count=)\d+", "32", block.text)
        exec(compile("\n" * block.line + code, str(ROOT / page), "exec"), names)


def libraries_of(code: str) -> set[str]:
    """The packages that a block imports, or whose scripts it runs."""
    return {*re.findall(r"^(?:from |import |script = \")(\w+)", code, re.MULTILINE)}


def short_rollouts() -> tuple[object, ...]:
    """The defaults of PPO, but with rollouts of 64 steps."""
    given = inspect.signature(PPO.__init__).parameters.values()
    defaults = [each for each in given if each.default is not each.empty]
    return tuple(64 if each.name == "n_steps" else each.default for each in defaults)


def make_run(folder: Path) -> None:
    """The network that a finished stage leaves in ``runs/<data set>/<stage>/<name>-…``, untrained."""
    *_, stage, name = folder.parts
    folder.mkdir(parents=True)
    kind = name.partition("-")[0]
    if stage == "autoencoder":
        model = MemoryAutoencoder(1, 32, "flat", 6, width=8, variational="v" in kind, items=4)
        images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
        save_autoencoder(folder, FrozenAutoencoder(model).calibrate(images))
    else:
        made = {"reconstruction": ReconstructionDetector, "rdna": RdnaDetector}[kind]
        save_detector(folder, made(1, 32))


# -- commands --


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[:90])
def test_commands_are_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and choices are composed, options parsed; nothing is run."""
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command.rpartition(" '|' ")[2])  # a list that is piped is not ours
    where = COMMANDS[command]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= {*targets}, where
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for wanted in re.findall(r"(?:latent-aug|\.)\[([\w,]+)\]", command):
            assert {*wanted.split(",")} <= {*extras}, where
    elif program == "python":
        check_python(where, arguments)
    elif program == "latent-aug":
        check_console(where, arguments)
    else:
        assert program in OTHER_PROGRAMS, f"{where}: teach this test about {program}"


def check_python(where: str, arguments: list[str]) -> None:
    """What follows ``python``: a script, a module, or code."""
    if arguments[0] == "-c":
        exec(compile(arguments[1], where, "exec"), {})
    elif arguments[0] != "-m":
        script = Path(arguments[0]).stem
        assert (ROOT / arguments[0]).is_file(), f"{where}: no script {arguments[0]}"
        assert script in SCRIPTS, f"{where}: {script} has no configuration"
        check_composes(where, script, arguments[1:])
    elif arguments[1].partition(".")[0] in CLIENTS:
        return  # benchmarks.clients runs it
    elif arguments[1] == "stages.prepare":
        check_composes(where, "prepare", with_dataset(arguments[2:]))
    else:
        check_module(where, arguments[1], arguments[2:])


def check_console(where: str, arguments: list[str]) -> None:
    """What follows ``latent-aug``: a command, and what that understands."""
    verb, *rest = arguments
    assert verb in latent_aug.VERBS, f"{where}: {verb} is unknown"
    if verb in ("train", "demo", "data"):
        given = with_dataset(rest) if verb == "data" else rest
        check_composes(where, "prepare" if verb == "data" else "train_ppo", given)
    elif verb == "predict" and rest:
        read_options(rest)
    elif verb == "export" and rest:
        read_export(rest)
    elif verb == "app" and rest:
        read_app(rest)


def check_composes(where: str, script: str, arguments: list[str]) -> None:
    """Compose what a script is called with: every value of a sweep at least once."""
    if "--help" in arguments:
        return
    if "--cfg" in arguments:
        at = arguments.index("--cfg")
        arguments = arguments[:at] + arguments[at + 2 :]
    overrides = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        swept = [[*each.sweep_string_iterator()] if each.is_sweep_override() else [] for each in parsed]
        values = [
            [f"{each.key_or_group}={value}" for value in sweep] or [given]
            for each, sweep, given in zip(parsed, swept, overrides, strict=True)
        ]
        assert "-m" in arguments or "--multirun" in arguments or not any(swept), f"{where}: a sweep needs -m"
        for chosen in zip_longest(*values) if values else [()]:
            picked = [given or options[-1] for given, options in zip(chosen, values, strict=True)]
            read_config(compose(script, picked), DataRun)
    except (HydraException, OmegaConfBaseException) as error:
        pytest.fail(f"{where}: {explain(error, script, overrides)}", pytrace=False)
    except UserError as error:
        pytest.fail(f"{where}: {error}", pytrace=False)


class Parsed(BaseException):
    """Stops a module once its command line is read."""


def check_module(where: str, module: str, arguments: list[str]) -> None:
    """Start a module for real and stop it when its command line is parsed; keys of a script are composed."""
    read: list[argparse.Namespace] = []

    def stopping(original: Callable[..., argparse.Namespace]) -> Callable[..., None]:
        def parse(*given: Any, **named: Any) -> None:
            read.append(original(*given, **named))
            raise Parsed

        return parse

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        for name in (module, f"{module}.__main__"):  # which other tests may have imported
            patch.delitem(sys.modules, name, raising=False)
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        try:
            runpy.run_module(module, run_name="__main__")
        except Parsed:
            pass
        except ImportError as error:
            pytest.fail(f"{where}: {error}", pytrace=False)
        except SystemExit as stopped:
            pytest.fail(f"{where}: the command line is refused ({stopped})", pytrace=False)
    assert read, f"{where}: {module} has no command line"
    options = vars(read[0])
    if keys := options.get("set"):
        comparison = STUDIES.get(options.get("comparison", ""))
        own = comparison.keys if comparison else ()
        check_composes(where, "train_detector" if comparison else "train_ppo", [*own, *keys])
    for also in options.get("also") or []:
        check_composes(where, "train_ppo", shlex.split(also.partition("=")[2]))
    if module == "benchmarks.augmentation":
        check_study(where, options)
    if module == "benchmarks.detectors":
        known = STUDIES[options["comparison"]]
        choose(where, options["datasets"] or [], known.datasets)
        choose(where, options["methods"] or [], known.methods)


def check_study(where: str, options: dict[str, Any]) -> None:
    """The study's own names: it looks them up in its tables after parsing."""
    also = [text.partition("=")[0] for text in options["also"]]
    known = {
        "settings": study.SETTINGS,
        "tracks": dict.fromkeys(study.TRACKS),
        "datasets": dict.fromkeys([*study.STUDY_DATASETS, *also]),
        "agents": study.AGENTS,
        "variants": study.VARIANTS,
    }
    for name, offered in known.items():
        choose(f"{where}: --{name}", options[name] or [], offered)


# -- names in backticks --


def keys_in(tree: Any, above: str = "") -> Iterator[str]:
    """All keys of a YAML file with their paths, ``detector.width`` and so on."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key not in ("defaults", "hydra"):
            yield f"{above}{key}"
            yield from keys_in(value, f"{above}{key}.")


def content(path: Path) -> dict[str, Any]:
    """A YAML file with what it takes from the shared ones."""
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    for each in tree.get("defaults", ()):
        if isinstance(each, str) and each.startswith("/shared/"):
            name, _, where = each[1:].partition("@")
            part = yaml.safe_load((CONF / f"{name}.yaml").read_text())
            tree = part | tree if where == "_here_" else tree | {where: part | tree.get(where, {})}
    return tree


KEYS = {
    *chain.from_iterable(keys_in(content(path)) for path in TOP_LEVEL),
    *(
        key
        for group in GROUPS
        for path in (CONF / group).glob("*.yaml")
        for key in keys_in(content(path), f"{group}.")
    ),
    *(f"reward.terms.{name}" for name in reward_terms.names()),
}


def test_keys_and_choices_exist() -> None:
    wrong = []
    for page, span in INLINE:
        if page in HISTORY:
            continue
        for word in span.split() if "=" in span else [span]:
            match = re.fullmatch(r"\+?([a-z_]+(?:\.[a-z_0-9]+)*)(?:=(\S*))?", word)
            if not match or word.endswith(".py"):
                continue
            key, value = match.groups()
            group, _, rest = key.partition(".")
            if rest and group in GROUPS:
                # A term of a user's own has any name.
                wrong += [f"{page}: {word}"] if key not in KEYS and not word.startswith("+") else []
            elif key in GROUPS and value is None:
                continue
            elif key in GROUPS and re.fullmatch(r"[\w|,]+", value):
                chosen = {*re.split(r"[|,]", value)}
                wrong += [f"{page}: {word}"] if not chosen <= {*choices(key)} else []
            elif key == "perturbation" and value:
                wrong += [f"{page}: {word}"] if value not in perturbations.names() else []
            elif value is not None and re.fullmatch(r"[a-z\d_.\[\],]+", value) and key not in PARAMETERS:
                wrong += [f"{page}: {word}"] if key not in KEYS else []
    assert not wrong, "\n".join(wrong)


PARAMETERS = {"num_envs", "compiled", "false_alarms", "key"}
"""Arguments of Python functions that pages name as ``name=value``."""


def test_defaults_in_tables_are_those_of_the_files() -> None:
    wrong = []
    for page, (_, prose) in SPLIT.items():
        for key, default in re.findall(r"^\| `([a-z]+\.[a-z_.]+)` \| `([^`]+)` \|", prose, re.MULTILINE):
            group, *rest = key.split(".")
            found = []
            for path in (CONF / group).glob("*.yaml") if group in GROUPS else TOP_LEVEL:
                value: Any = content(path)
                for part in rest if group in GROUPS else key.split("."):
                    value = value.get(part) if isinstance(value, dict) else None
                found.append(value)
            if yaml.safe_load(default) not in found:
                wrong.append(f"{page}: {key} is {default}, in the files {found}")
    assert not wrong, "\n".join(wrong)


def test_paths_and_modules_exist() -> None:
    wrong = []
    for page, span in INLINE:
        if page in HISTORY or not re.fullmatch(r"[\w./-]+", span):
            continue
        first = re.split(r"[./]", span)[0]
        if "/" in span and first in FOLDERS:
            wrong += [] if (ROOT / span).exists() else [f"{page}: {span}"]
        elif "." in span and first in PACKAGES and not span.endswith((".py", ".md")):
            wrong += [] if resolves(span) else [f"{page}: {span}"]
        elif re.fullmatch(r"train_\w+\.py", span):
            wrong += [] if (ROOT / span).is_file() else [f"{page}: {span}"]
    assert not wrong, "\n".join(wrong)


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def test_links_lead_somewhere() -> None:
    wrong = []
    for page, (_, prose) in SPLIT.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (ROOT / page).parent / path if path else ROOT / page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(f"{page}: {target}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """What a heading's link is called on GitHub."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
