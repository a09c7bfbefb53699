"""``python -m stages.offline``: make data sets."""

from __future__ import annotations

import sys

import stages.cli.early  # noqa: F401 - before what takes seconds to load
from stages.cli.mistakes import mistakes_told
from stages.offline.arguments import read_options

with mistakes_told("offline"):
    options = read_options(sys.argv[1:])
    from stages.offline.command import make_datasets  # which takes seconds to import

    make_datasets(options)
