"""Hugging Face's libraries without their own progress bars and log lines."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quietly(library: Any) -> Iterator[None]:
    """A context in which ``library``, transformers or diffusers, prints and warns of nothing."""
    logging, hub = library.utils.logging, importlib.import_module("huggingface_hub").logging
    before = logging.get_verbosity(), hub.get_verbosity()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(before[0])
        hub.set_verbosity(before[1])
        logging.enable_progress_bar()
