"""`latent-aug export`: from a run to what other programs use."""

from __future__ import annotations

from stages.export.arguments import read_options
from stages.export.onnx_file import export_onnx
from stages.export.samples.writing import export_samples


def export(arguments: list[str]) -> int:
    """Write what ``arguments`` name; the exit code.

    :raises UserError: for a user's mistake.
    """
    options = read_options(arguments)
    if options.onnx is not None:
        export_onnx(options, options.onnx)
    if options.samples is not None:
        export_samples(options.run, options.samples, options.layout, options.best)
    return 0
