"""The README's code runs as it stands, and its commands name things that exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        if match := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / match.group(1)).write_text(block)
        else:
            exec(block.replace("10_000", "32"), names)
    assert (tmp_path / "augmented.npz").is_file()
    sys.modules.pop("mine", None)


def test_pictures_and_files_exist() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:latent_env|agents|conf|detectors)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path


def test_commands_name_real_choices() -> None:
    from stages.cli.choices import choices, groups

    commands = re.findall(r"^python (train_\w+)\.py (.+)$", README, re.MULTILINE)
    assert commands
    for script, arguments in commands:
        for group, choice in re.findall(r"(?:^|\s)(\w+)=(\w+)", arguments):
            if group in groups(script):
                assert choice in choices(group), f"{group}={choice}"
