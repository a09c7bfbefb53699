"""`latent-aug export`: from a run to what other programs use."""

from __future__ import annotations

from stages.export.arguments import read_options
from stages.export.onnx_file import export_onnx


def export(arguments: list[str]) -> int:
    """Write what ``arguments`` name; the exit code.

    :raises UserError: for a user's mistake.
    """
    options = read_options(arguments)
    export_onnx(options)
    return 0
