"""Short digests of settings, for names of folders."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(settings: Any) -> str:
    """Ten hexadecimal digits for plain values, equal for equal values; the order of keys doesn't matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
