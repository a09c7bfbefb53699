"""The user's own modules, which may register reward terms and perturbations."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from latent_common.registry import import_users_module


def import_plugins(names: Iterable[str]) -> None:
    """Import the modules ``names`` from the user's working directory or from what is installed."""
    for name in names:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))  # Python itself only adds the folder of the script
        import_users_module(name, "plugins")


def plugin_digests(names: Iterable[str]) -> dict[str, str]:
    """A digest of every plugin's source: when that changes, what it made must be made again."""
    return {name: _source_digest(name) for name in names}


def _source_digest(name: str) -> str:
    file = sys.modules[name].__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""
