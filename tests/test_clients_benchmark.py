"""``python -m benchmarks.clients``: what the page shows is what is run, and what fails is told in a line."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import pytest

from benchmarks.clients.__main__ import PAGE, main
from benchmarks.clients.environment import Environment, first_package
from benchmarks.clients.page import Client, read_page
from benchmarks.clients.process import run
from latent_common.errors import UserError

SMALL = """
# A page

```sh
python -c "raise SystemExit(1)"  # belongs to no section
```

## What to know

Nothing.

## Good

```yaml
# given.yml
answer: 42
```

```sh
python -c "print('from a shell')"
```

```python
from pathlib import Path

import latent_env

assert "42" in Path("given.yml").read_text()
value = len("a")  # or nowhere["c"]
print(value)
```

## Slow

```python
import time

time.sleep(60)
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(SMALL)
    return path


def outcomes(out: Path) -> dict[str, str]:
    with (out / "runs.csv").open() as file:
        return {row["client"]: row["outcome"] for row in csv.DictReader(file)}


def test_every_choice_is_run_and_failures_are_told(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = page.parent / "out"
    assert main(["--out", str(out), "--clients", "good"], page) == 1
    assert "| Good, nowhere " in capsys.readouterr().out
    found = outcomes(out)
    assert list(found) == ["Good, len", "Good, len", "Good, nowhere"] or len(found) == 2
    assert found["Good, len"] == "worked"
    assert found["Good, nowhere"] == "NameError: name 'nowhere' is not defined"
    assert "from a shell" in (out / "logs" / "good_nowhere-0.log").read_text()
    assert "Traceback" in (out / "logs" / "good_nowhere-0.log").read_text()


def test_what_takes_too_long_is_stopped(page: Path) -> None:
    out = page.parent / "out"
    assert main(["--out", str(out), "--clients", "slow", "--minutes", "0.02"], page) == 1
    assert outcomes(out) == {"Slow": "it took more than 0.02 minutes"}


def test_what_worked_is_run_again_only_where_the_page_has_changed(page: Path) -> None:
    page.write_text("## One\n\n```python\nopen('../count', 'a').write('1')\n```\n")
    out = page.parent / "out"
    for text in ("", "", "print()\n"):
        page.write_text(page.read_text().replace("'1')\n", f"'1')\n{text}"))
        assert main(["--out", str(out)], page) == 0
    assert (out / "runs" / "one" / "count").read_text() == "11"
    (out / "RESULTS.md").write_text("edited by a person")
    assert main(["--out", str(out), "--report-only"], page) == 0
    assert "| One " in (out / "RESULTS.new.md").read_text()


def test_mistakes(page: Path) -> None:
    with pytest.raises(UserError, match="--clients bad is unknown: choose among good_len"):
        main(["--clients", "bad"], page)
    with pytest.raises(UserError, match="--minutes 0"):
        main(["--minutes", "0"], page)
    with pytest.raises(UserError, match=r"--cleanrl .* holds no folder cleanrl"):
        main(["--cleanrl", str(page.parent)], page)


def shown() -> list[Client]:
    return read_page(PAGE)


def test_the_page_shows_what_every_client_installs(capsys: pytest.CaptureFixture[str]) -> None:
    clients = {client.name: client for client in shown()}
    assert len(clients) == len(shown())
    assert {"stable_baselines3_one_world_ddpg", "rl_zoo", "rllib_sac", "skrl_make"} <= clients.keys()
    assert {name for name, client in clients.items() if not client.installs} == {"a_loop_of_your_own"}
    for client in clients.values():
        for step in client.steps:
            if step.language == "python":
                compile(step.text, client.name, "exec")
    assert "SAC(" in clients["stable_baselines3_one_world_sac"].steps[0].text
    assert "PPO(" not in clients["stable_baselines3_one_world_sac"].steps[0].text
    assert main(["--list"]) == 0
    assert "rl_zoo  pip install rl_zoo3\n" in capsys.readouterr().out


def test_the_pages_table_has_a_row_for_every_client() -> None:
    rows = re.findall(r"^\| ([^|]+?) +\|", PAGE.read_text(), re.MULTILINE)
    assert rows[2:] == [client.title for client in shown()]


@pytest.mark.parametrize(
    ("installs", "package"),
    [
        ([["ray[rllib]"]], "ray"),
        ([["--no-deps", "cleanrl"], ["tyro"]], "cleanrl"),
        ([["tianshou>=2"]], "tianshou"),
        ([], ""),
    ],
)
def test_the_version_is_that_of_the_first_package(installs: list[list[str]], package: str) -> None:
    assert first_package(installs) == package


@pytest.mark.slow
def test_an_environment_sees_the_packages_of_this_python(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "one")
    environment.make([["gymnasium"]])
    asked = "import sys, torch; print(sys.prefix, torch.__version__)"
    printed = run([environment.python, "-c", asked], tmp_path, os.environ, 60).last_line
    assert printed.startswith(str(tmp_path))
    assert environment.version_of("gymnasium") == Environment(Path(sys.prefix)).version_of("gymnasium")
    (tmp_path / "one" / "kept").touch()
    environment.make([["gymnasium"]])
    assert (tmp_path / "one" / "kept").exists()
    with pytest.raises(UserError, match=r"pip can't install .*no-such-package-of-ours"):
        Environment(tmp_path / "two").make([["--no-index", "no-such-package-of-ours"]])
