"""`latent-aug` itself: its help, its table of runs, and what shells complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_predict_command import Run, latent  # noqa: F401 - a fixture

import latent_aug
from latent_common.artifacts import write_json


def test_every_command_has_a_help(latent: Run) -> None:  # noqa: F811
    overview = latent("--help")
    for name, verb in latent_aug.VERBS.items():
        assert name in overview.out
        assert verb.about in overview.out
        if name != "completion":
            done = latent(name, "--help")
            assert done.code == 0
            assert f"latent-aug {name}" in done.out
    assert latent().out == overview.out
    unknown = latent("nothing")
    assert (unknown.code, unknown.said.count("\n")) == (2, 1)
    assert "nothing is unknown: choose data, train, runs, predict" in unknown.said


def test_help_is_quick() -> None:
    code = (
        "import sys, latent_aug; sys.argv = ['latent-aug']; latent_aug.main(); "
        "assert not {'torch', 'hydra', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("arguments", ["--help", "--version", "predict --help", "completion", "data --help"])
def test_a_reader_that_has_left_is_no_mistake(arguments: str) -> None:
    unread, output = os.pipe()
    os.close(unread)
    command = [sys.executable, str(ROOT / "latent_aug.py"), *arguments.split()]
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # argparse says nothing of it


def test_data_and_train_take_the_keys_of_the_scripts(latent: Run) -> None:  # noqa: F811
    done = latent("data", "digits")
    assert done.code == 0, done.said
    assert done.out.startswith("digits: train")
    shown = latent("train", "dataset=digits", "--cfg", "job")
    assert "name: digits" in shown.out
    assert "name: phantom" in latent("demo", "--cfg", "job").out
    for verb in ("train", "demo"):
        wrong = latent(verb, "detector.widht=3")
        assert wrong.code == 2
        assert wrong.said.startswith(f"{verb}: detector.widht")


def test_runs_are_listed_with_the_newest_first(latent: Run, tmp_path: Path) -> None:  # noqa: F811
    empty = latent("runs")
    assert empty.code == 2
    assert empty.said == "runs: runs holds no runs: `latent-aug train` makes one below runs/\n"
    for name, metrics in (("knn-1", {"image_AUROC": 0.75}), ("knn-2", None), ("knn-3", {"image_AUROC": 0.5})):
        folder = tmp_path / "runs/mine/detector" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        if metrics is not None:
            write_json(folder / "metrics.json", metrics)
    (folder / "decision.json").write_text("{}")
    lines = latent("runs").out.splitlines()
    assert "image_AUROC 0.500" in lines[2]
    assert "yes" in lines[2]
    assert "not yet" in next(line for line in lines if "knn-2" in line)
    found = [json.loads(line) for line in latent("runs", "runs", "--json").out.splitlines()]
    assert {run["name"] for run in found} == {"knn"}
    assert found[0]["metrics"] == {"image_AUROC": 0.5}
    (tmp_path / "runs/mine/detector/knn-1/metrics.json").write_text("{")
    assert len(latent("runs").out.splitlines()) == 5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("latent-aug pre", "predict"),
        ("latent-aug train dataset=pha", "phantom"),
        ("latent-aug train detector=position", "positional_knn"),
        ("latent-aug predict phantom --fal", "--false-alarms"),
        ("latent-aug predict READ", "README.md"),
    ],
)
def test_a_shell_completes(line: str, expected: str, latent: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    script = latent("completion").out
    words = line.replace("=", " = ").split()
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}"
    code = f"{script}\n{ask}\n_latent_aug\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert expected in done.stdout.split(), done.stdout + done.stderr
