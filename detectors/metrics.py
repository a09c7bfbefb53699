"""How well scores and maps tell anomalous from normal: AUROC, AP, F1Max and AUPRO, all exact.

Every metric is read off one curve: sort the scores from high to low and count, at every distinct
threshold, what lies at or above it. Equal scores share a threshold, so ties are never broken by the
order in which the images happen to stand. A metric that needs both classes is NaN with only one.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.integrate import trapezoid

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Counts: TypeAlias = npt.NDArray[np.float64]
ImageMetric: TypeAlias = Callable[[FloatArray, IntArray], float]

AUPRO_LIMIT = 0.3
"""Greatest pixel false positive rate that AUPRO looks at."""

_BOOTSTRAP_BLOCK = 2_000_000
"""Weights that a block of bootstrap repeats holds at most: bounds the memory, not the result."""


def image_AUROC(scores: FloatArray, labels: IntArray) -> float:
    """Area under the ROC curve of image scores (N,), higher = more anomalous, labels (N,) 0/1."""
    return float(_area(*_hits_and_alarms(scores, labels)))


def image_AP(scores: FloatArray, labels: IntArray) -> float:
    """Average precision (step-wise area under precision over recall) of image scores (N,)."""
    return float(_average_precision(*_hits_and_alarms(scores, labels)))


def image_F1Max(scores: FloatArray, labels: IntArray) -> float:
    """The best F1 that any threshold on the image scores (N,) reaches."""
    return float(_best_f1(*_hits_and_alarms(scores, labels)))


def pixel_AUROC(maps: FloatArray, masks: BoolArray) -> float:
    """Area under the ROC curve of all pixels: maps (N, H, W) against true masks (N, H, W)."""
    values, truth = _checked(maps, masks, "maps", "masks", dimensions=3)
    return image_AUROC(values.ravel(), truth.ravel())


def pixel_AP(maps: FloatArray, masks: BoolArray) -> float:
    """Average precision of all pixels: maps (N, H, W) against true masks (N, H, W)."""
    values, truth = _checked(maps, masks, "maps", "masks", dimensions=3)
    return image_AP(values.ravel(), truth.ravel())


def pixel_AUPRO(maps: FloatArray, masks: BoolArray) -> float:
    """Area under the per-region overlap, maps (N, H, W) against true masks (N, H, W), in [0, 1].

    A region is an 8-connected component of a true mask. The overlap (share of a region that is
    found), averaged over all regions, is integrated over the false positive rate of the normal
    pixels of all images from 0 to 0.3 and divided by 0.3.
    """
    return pixel_metrics(maps, masks)["pixel_AUPRO"]


def image_metrics(scores: FloatArray, labels: IntArray) -> dict[str, float]:
    """`image_AUROC`, `image_AP` and `image_F1Max` of scores (N,) against labels (N,) 0/1."""
    hits, alarms = _hits_and_alarms(scores, labels)
    return {
        "image_AUROC": float(_area(hits, alarms)),
        "image_AP": float(_average_precision(hits, alarms)),
        "image_F1Max": float(_best_f1(hits, alarms)),
    }


def pixel_metrics(maps: FloatArray, masks: BoolArray) -> dict[str, float]:
    """`pixel_AUROC`, `pixel_AP` and `pixel_AUPRO` of maps (N, H, W) against masks (N, H, W)."""
    values, truth = _checked(maps, masks, "maps", "masks", dimensions=3)
    weights = (truth, ~truth, _region_weights(truth))
    hits, alarms, overlap = _cumulative(values.ravel(), *(each.ravel() for each in weights))
    return {
        "pixel_AUROC": float(_area(hits, alarms)),
        "pixel_AP": float(_average_precision(hits, alarms)),
        "pixel_AUPRO": _overlap_area(overlap, alarms),
    }


def all_metrics(
    scores: FloatArray, labels: IntArray, maps: FloatArray | None, masks: BoolArray | None
) -> dict[str, float]:
    """Image metrics of scores (N,), and pixel metrics of maps (N, H, W) if there are masks."""
    results = image_metrics(scores, labels)
    if maps is None or masks is None:
        return results
    if len(maps) != len(scores):
        raise ValueError(f"{len(scores)} scores but {len(maps)} maps: give one map an image")
    return results | pixel_metrics(maps, masks)


def roc_points(scores: FloatArray, labels: IntArray) -> tuple[Counts, Counts]:
    """False and true positive rates (T + 1,) at every distinct threshold, from (0, 0) to (1, 1).

    The rate of a class that is not there is NaN (0 at the first point).
    """
    hits, alarms = _hits_and_alarms(scores, labels)
    return _from_zero(_share(alarms)), _from_zero(_share(hits))


def paired_bootstrap(
    metric: ImageMetric,
    labels: IntArray,
    before: FloatArray,
    after: FloatArray,
    repeats: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """By how much `metric` changed from scores `before` to scores `after`, both (N,).

    Returns the difference `metric(after) - metric(before)` and the ends of its 95 % percentile
    interval over images: every repeat draws images with replacement, as many of each label (N,) as
    there are, and the same ones for both. The metrics of this module go fast; any other function of
    (scores, labels) is called once a repeat.
    """
    difference = metric(after, labels) - metric(before, labels)
    if np.isnan(difference):
        return difference, difference, difference

    rng = np.random.default_rng(seed)
    block = max(1, _BOOTSTRAP_BLOCK // len(labels))
    sizes = [min(block, repeats - start) for start in range(0, repeats, block)]
    draws = (resamples(labels, size, rng) for size in sizes)
    changes = [
        resampled_values(metric, labels, after, chosen) - resampled_values(metric, labels, before, chosen)
        for chosen in draws
    ]
    low, high = np.quantile(np.concatenate(changes), [0.025, 0.975])
    return difference, float(low), float(high)


def resamples(labels: IntArray, repeats: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows drawn with replacement (R, N), as many of each label as there are."""
    of_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [rows[rng.integers(len(rows), size=(repeats, len(rows)))] for rows in of_label]
    return np.concatenate(drawn, axis=1)


def resampled_values(
    metric: ImageMetric, labels: IntArray, scores: FloatArray, chosen: npt.NDArray[np.int64]
) -> Counts:
    """The metric (R,) on every row of `chosen` (R, N)."""
    of_curve = _OF_CURVE.get(metric)
    if of_curve is None:
        return np.array([metric(scores[rows], labels[rows]) for rows in chosen])
    # An image drawn three times is an image of weight three: one sort serves all repeats.
    repeats, images = chosen.shape
    first = images * np.arange(repeats)[:, None]
    times = np.bincount((chosen + first).ravel(), minlength=chosen.size).reshape(chosen.shape)
    truth = labels.astype(bool)
    return of_curve(*_cumulative(np.asarray(scores, np.float64), times * truth, times * ~truth))


def _checked(
    scores: FloatArray, truth: IntArray, scores_name: str, truth_name: str, dimensions: int
) -> tuple[Counts, BoolArray]:
    """Scores as float64 and truth as bool, both of one shape; ValueError says what is wrong."""
    values, wanted = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if values.shape != wanted.shape or values.ndim != dimensions:
        raise ValueError(
            f"{scores_name} {values.shape} and {truth_name} {wanted.shape} need the same shape, "
            f"of {dimensions} dimension(s)"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{scores_name} hold NaN or infinity: metrics need finite numbers")
    if not np.isin(wanted, (0, 1)).all():
        raise ValueError(f"{truth_name} must be 0 (normal) or 1 (anomalous)")
    return values, wanted.astype(bool)


def _hits_and_alarms(scores: FloatArray, labels: IntArray) -> tuple[Counts, Counts]:
    """True and false positives (T,) at every distinct threshold."""
    values, truth = _checked(scores, labels, "scores", "labels", dimensions=1)
    hits, alarms = _cumulative(values, truth, ~truth)
    return hits, alarms


def _cumulative(scores: Counts, *weights: npt.NDArray[Any]) -> list[Counts]:
    """For weights (..., N): the weight (..., T) at or above every distinct threshold, high to low.

    One sort serves all of them.
    """
    if len(scores) == 0:
        return [np.zeros((*each.shape[:-1], 1)) for each in weights]
    order = np.argsort(-scores)
    ordered = scores[order]
    is_last_of_tie = np.ones(len(scores), dtype=bool)
    is_last_of_tie[:-1] = ordered[:-1] != ordered[1:]
    ends = np.flatnonzero(is_last_of_tie)
    return [np.cumsum(each[..., order], axis=-1, dtype=np.float64)[..., ends] for each in weights]


def _from_zero(curve: Counts) -> Counts:
    """The curve (..., T) with the point above all scores, where nothing is found yet, in front."""
    return np.concatenate([np.zeros_like(curve[..., :1]), curve], axis=-1)


def _share(counts: Counts) -> Counts:
    """Cumulative counts (..., T) as a share of their total; NaN if the total is 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts[..., -1:])


def _area(hits: Counts, alarms: Counts) -> Counts:
    """Area under the ROC curve (...,) of counts (..., T)."""
    rates = _from_zero(_share(alarms))
    return np.asarray(trapezoid(_from_zero(_share(hits)), rates, axis=-1))


def _average_precision(hits: Counts, alarms: Counts) -> Counts:
    """Sum of precision x step in recall (...,) of counts (..., T)."""
    steps = np.diff(_from_zero(_share(hits)), axis=-1)
    # Resampling can leave the highest thresholds empty; their step is 0 whatever the precision.
    precision = hits / np.maximum(hits + alarms, 1)
    return _unless_one_class(np.sum(precision * steps, axis=-1), hits, alarms)


def _best_f1(hits: Counts, alarms: Counts) -> Counts:
    """Greatest F1 = 2 TP / (TP + FP + all anomalous) (...,) of counts (..., T)."""
    f1 = 2 * hits / np.maximum(hits + alarms + hits[..., -1:], 1)
    return _unless_one_class(np.max(f1, axis=-1), hits, alarms)


def _unless_one_class(values: Counts, hits: Counts, alarms: Counts) -> Counts:
    """The values (...,), but NaN where the counts (..., T) end with an empty class."""
    return np.where((hits[..., -1] > 0) & (alarms[..., -1] > 0), values, np.nan)


def _region_weights(masks: BoolArray) -> Counts:
    """1 / (size of the region x number of regions) on every pixel (N, H, W) of a region, else 0.

    Summed over the pixels that were found, these weights are the mean overlap over all regions.
    """
    within_an_image = np.zeros((3, 3, 3), dtype=bool)
    within_an_image[1] = True
    regions, number = ndimage.label(masks, structure=within_an_image)
    sizes = np.bincount(regions.ravel(), minlength=1).astype(np.float64)
    weights = 1 / np.maximum(sizes * number, 1)
    weights[0] = 0  # the background
    return np.asarray(weights[regions])


def _overlap_area(overlap: Counts, alarms: Counts) -> float:
    """Area under mean region overlap (T,) over false positive rate up to the limit, normalised."""
    if overlap[-1] == 0 or alarms[-1] == 0:
        return float("nan")
    rates, overlap = _from_zero(_share(alarms)), _from_zero(overlap)
    inside = rates <= AUPRO_LIMIT
    at_limit = np.interp(AUPRO_LIMIT, rates, overlap)
    area = trapezoid(np.append(overlap[inside], at_limit), np.append(rates[inside], AUPRO_LIMIT))
    return float(area / AUPRO_LIMIT)


_OF_CURVE: dict[ImageMetric, Callable[[Counts, Counts], Counts]] = {
    image_AUROC: _area,
    image_AP: _average_precision,
    image_F1Max: _best_f1,
}
"""What an image metric is of (weighted) hits and alarms (..., T): lets the bootstrap batch it."""
