"""What a person rejected is written and read back, and a damaged file is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latent_common.errors import UserError
from stages.export.selection import SELECTION, read_rejected, write_rejected


def test_nobody_chose(tmp_path: Path) -> None:
    assert read_rejected(tmp_path) == frozenset()


def test_the_last_choice_counts(tmp_path: Path) -> None:
    write_rejected(tmp_path, [7, 0, 7])
    write_rejected(tmp_path, [17, 3])
    assert read_rejected(tmp_path) == {3, 17}
    assert json.loads((tmp_path / SELECTION).read_text()) == {"rejected": [3, 17]}
    write_rejected(tmp_path, [])
    assert read_rejected(tmp_path) == frozenset()


@pytest.mark.parametrize(
    "content", ["", "[3]", "{}", '{"rejected": 3}', '{"rejected": ["3"]}', '{"rejected": [-1]}']
)
def test_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / SELECTION).write_text(content)
    with pytest.raises(UserError, match=SELECTION):
        read_rejected(tmp_path)
