"""A short name for settings: the same settings have the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(settings: Any) -> str:
    """Ten hexadecimal digits for plain values; the order of a mapping's keys doesn't matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
