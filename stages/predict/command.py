"""`latent-aug predict`: from a run and images to verdicts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from latent_common.errors import INTERRUPTED, UserError
from latent_common.progress import progress_bar, say
from latent_env.prediction.onnx_detector import load_onnx
from stages.predict.arguments import Options, read_options
from stages.predict.pipeline import Pipeline, Predictor
from stages.predict.sources import Named, find_images, watch
from stages.predict.tables import ANOMALY, BROKEN, CSV, NORMAL, Row, Tables, known_paths, line_of

FAILED = 1


def predict(arguments: list[str]) -> int:
    """Predict what ``arguments`` name; the exit code.

    :raises UserError: for a user's mistake.
    """
    options = read_options(arguments)
    found = find_images(options.images) if options.watch is None else None
    detector = _detector(options)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names may be any bytes
    if found is None:
        return _watch(options, detector)
    return _predict_files(options, detector, found)


def _detector(options: Options) -> Predictor:
    """The detector with the threshold that is wanted."""
    if options.onnx is not None:
        exported = load_onnx(options.onnx, options.device, options.threads)
        if exported.note:
            say(exported.note)
        return exported
    try:  # an exported detector does without it
        import torch
    except ModuleNotFoundError as error:
        raise UserError(
            "predicting with a run needs PyTorch, which is not installed: name a file of `latent-aug export` "
            "with --onnx FILE"
        ) from error
    from latent_env.prediction.detector import load_detector

    detector = load_detector(options.run, options.device, options.false_alarms)
    if detector.folder != Path(options.run):
        say(f"detector: {detector.folder}")
    if options.best_f1:
        detector = detector.with_best_f1()
    if detector.threshold.note:
        say(detector.threshold.note)
    torch.set_num_threads(options.threads)
    return detector


def _predict_files(options: Options, detector: Predictor, found: list[Named]) -> int:
    counts: Counter[str] = Counter()
    begun = time.monotonic()
    pipeline, stopped = Pipeline(detector, options.out, options.pictures), False
    hidden = options.out is None  # lines are printed then
    with _tables(options, False) as tables, progress_bar("predicting", len(found), hidden=hidden) as bar:
        try:
            for row in pipeline.rows(found):
                _note(row, tables, counts, shown=tables is None)
                rate = counts.total() / max(time.monotonic() - begun, 1e-9)
                bar.set_postfix_str(f"{rate:.1f} images/s", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            stopped = True
    rate = counts.total() / max(time.monotonic() - begun, 1e-9)
    _report(counts, f", {rate:.1f} images/s", options.out)
    if stopped:
        say(f"stopped after {counts.total()} of {len(found)} images")
        return INTERRUPTED
    if counts[BROKEN] == counts.total():
        raise UserError("none of the images could be read")
    return FAILED if options.fail_on_anomaly and counts[ANOMALY] else 0


def _watch(options: Options, detector: Predictor) -> int:
    assert options.watch is not None
    known = known_paths(options.out) if options.out else []
    counts: Counter[str] = Counter()
    pipeline = Pipeline(detector, options.out, options.pictures)
    arriving = watch(options.watch, known)
    say(f"watching {options.watch} until Ctrl-C" + (f"; {len(known)} images are known" if known else ""))
    with _tables(options, True) as tables, contextlib.suppress(KeyboardInterrupt):
        for found in arriving:
            for row in pipeline.rows(found):
                _note(row, tables, counts, shown=True)
    _report(counts, "", options.out)
    return FAILED if options.fail_on_anomaly and counts[ANOMALY] else 0


@contextlib.contextmanager
def _tables(options: Options, lasting: bool) -> Iterator[Tables | None]:
    """The tables in the folder of ``--out``; None without one."""
    if options.out is None:
        yield None
    else:
        with Tables(options.out, lasting) as tables:
            yield tables


def _note(row: Row, tables: Tables | None, counts: Counter[str], shown: bool) -> None:
    """Count a row, and write it: to the tables, and as a line where that is ``shown``."""
    counts[row["verdict"]] += 1
    if row["verdict"] == BROKEN:
        tqdm.write(row["error"], file=sys.stderr)  # above a progress bar
    if tables is not None:
        tables.add(row)
    if shown:
        print(line_of(row), flush=True)


def _report(counts: Counter[str], rate: str, out: Path | None) -> None:
    """How many there were of each kind."""
    images = "1 image" if counts.total() == 1 else f"{counts.total()} images"
    anomalies = "anomaly" if counts[ANOMALY] == 1 else "anomalies"
    broken = f", {counts[BROKEN]} broken" if counts[BROKEN] else ""
    where = f"\npredictions: {out / CSV}" if out is not None else ""
    found = f"{counts[ANOMALY]} {anomalies}, {counts[NORMAL]} normal{broken}"
    say(f"{images}: {found}{rate}{where}")
