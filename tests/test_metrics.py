import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn import metrics as reference

from benchmarks.speed.metrics import of_whole_curve
from detectors import metrics

# Few distinct values, so that ties are the rule.
_SCORES = hnp.arrays(np.float64, 30, elements=st.integers(-4, 4).map(float))
_LABELS = hnp.arrays(np.int64, 30, elements=st.integers(0, 1)).filter(lambda y: 0 < y.sum() < 30)


def _sample(seed=0, images=12, size=16):
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(images, size, size)), (0, 1.5, 1.5)) > 0.15
    masks[: images // 3] = False
    maps = np.round(masks + rng.normal(0, 0.8, masks.shape), 1)  # rounded: with ties
    return maps, masks


def _slow_aupro(maps, masks, limit=0.3):
    """Every threshold, every region, one after the other."""
    regions = []
    for image, mask in enumerate(masks):
        numbered, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, numbered == k) for k in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        rates.append(found[~masks].mean())
        overlaps.append(np.mean([found[image][region].mean() for image, region in regions]))
    area = 0.0
    for k in range(1, len(rates)):
        left, right = rates[k - 1], rates[k]
        if left >= limit or right == left:
            continue
        end = min(right, limit)
        at_end = overlaps[k - 1] + (overlaps[k] - overlaps[k - 1]) * (end - left) / (right - left)
        area += (end - left) * (overlaps[k - 1] + at_end) / 2
    return area / limit


@settings(deadline=None)
@given(_SCORES, _LABELS)
def test_image_metrics_equal_scikit_learn(scores, labels):
    found = metrics.image_metrics(scores, labels)
    assert found["image_AUROC"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["image_AP"] == pytest.approx(reference.average_precision_score(labels, scores))
    best = max(reference.f1_score(labels, scores >= t) for t in np.unique(scores))
    assert found["image_F1Max"] == pytest.approx(best)
    assert metrics.image_AUROC(scores, labels) == found["image_AUROC"]
    assert metrics.image_AP(scores, labels) == found["image_AP"]
    assert metrics.image_F1Max(scores, labels) == found["image_F1Max"]


@given(_SCORES, _LABELS)
def test_only_the_order_of_scores_counts(scores, labels):
    found = metrics.image_metrics(scores, labels)
    assert metrics.image_metrics(np.exp(3 * scores) - 1e3, labels) == found
    shuffle = np.random.default_rng(0).permutation(len(labels))
    assert metrics.image_metrics(scores[shuffle], labels[shuffle]) == pytest.approx(found)


@given(_SCORES, _LABELS)
def test_negated_scores_mirror_the_auroc(scores, labels):
    assert metrics.image_AUROC(-scores, labels) == pytest.approx(1 - metrics.image_AUROC(scores, labels))


@given(_LABELS)
def test_perfect_and_constant_scores(labels):
    assert metrics.image_metrics(labels * 1.0, labels) == {
        "image_AUROC": 1.0,
        "image_AP": pytest.approx(1.0),
        "image_F1Max": 1.0,
    }
    assert metrics.image_AUROC(np.zeros(len(labels)), labels) == 0.5
    assert metrics.image_AP(np.zeros(len(labels)), labels) == pytest.approx(labels.mean())


def test_scores_are_neither_clamped_nor_rounded():
    scores = np.array([5.0, 5.0 + 1e-12, 1e300, -7.0])
    assert metrics.image_AUROC(scores, np.array([0, 1, 1, 0])) == 1.0


@pytest.mark.parametrize("labels", [np.zeros(5, int), np.ones(5, int), np.zeros(0, int)])
def test_one_class_is_nan(labels):
    scores = np.arange(len(labels)) * 1.0
    assert all(np.isnan(v) for v in metrics.image_metrics(scores, labels).values())
    maps = np.arange(len(labels) * 16.0).reshape(-1, 4, 4)
    masks = np.broadcast_to(labels[:, None, None] == 1, maps.shape)
    assert all(np.isnan(v) for v in metrics.pixel_metrics(maps, masks).values())
    if len(labels):
        assert np.isnan(metrics.paired_bootstrap(metrics.image_AUROC, labels, scores, scores)).all()


@pytest.mark.parametrize("seed", range(4))
def test_pixel_metrics_equal_the_references(seed):
    maps, masks = _sample(seed)
    found = metrics.pixel_metrics(maps, masks)
    truth, scores = masks.ravel(), maps.ravel()
    assert found["pixel_AUROC"] == pytest.approx(reference.roc_auc_score(truth, scores))
    assert found["pixel_AP"] == pytest.approx(reference.average_precision_score(truth, scores))
    assert found["pixel_AUPRO"] == pytest.approx(_slow_aupro(maps, masks))
    assert metrics.pixel_AUROC(maps, masks) == found["pixel_AUROC"]
    assert metrics.pixel_AP(maps, masks) == found["pixel_AP"]
    assert metrics.pixel_AUPRO(maps, masks) == found["pixel_AUPRO"]


def test_pixel_metrics_are_those_of_a_curve_through_all_pixels():
    maps, masks = _sample(5)
    for precise in (maps, maps.astype(np.float32), maps.round()):
        found = metrics.pixel_metrics(precise, masks)
        assert found == pytest.approx(of_whole_curve(precise, masks), rel=1e-12)


def test_aupro_of_simple_maps():
    masks = _sample()[1]
    assert metrics.pixel_AUPRO(masks * 1.0, masks) == pytest.approx(1.0)
    assert metrics.pixel_AUPRO(1.0 - masks, masks) == 0.0
    # One threshold: the curve is the diagonal, of area .3² / 2 up to .3.
    assert metrics.pixel_AUPRO(np.zeros(masks.shape), masks) == pytest.approx(0.15)


def test_aupro_weighs_regions_equally_and_joins_corners():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :5, :5] = True
    masks[0, 5, 5] = True  # touches the square by a corner: same region
    masks[1, 0, 0] = True  # same place as a pixel of the first image, yet another region
    maps = np.zeros(masks.shape)
    maps[1, 0, 0] = 1
    # One of two regions found at no false alarm, the rest on the diagonal from .5 to 1.
    assert metrics.pixel_AUPRO(maps, masks) == pytest.approx(0.5 + 0.5 * 0.3 / 2)


def test_all_metrics_adds_pixel_metrics_only_with_masks():
    maps, masks = _sample()
    labels = masks.any((1, 2)).astype(int)
    scores = maps.max((1, 2))
    image, pixel = metrics.image_metrics(scores, labels), metrics.pixel_metrics(maps, masks)
    assert metrics.all_metrics(scores, labels, maps, masks) == image | pixel
    assert metrics.all_metrics(scores, labels, maps, None) == image
    with pytest.raises(ValueError, match="11 scores but 12 maps"):
        metrics.all_metrics(scores[1:], labels[1:], maps, masks)


def test_bad_input_is_named():
    ones = np.ones(3)
    with pytest.raises(ValueError, match="need the same shape"):
        metrics.image_metrics(ones, np.ones(4, int))
    with pytest.raises(ValueError, match="need the same shape"):
        metrics.pixel_metrics(ones, ones > 0)
    with pytest.raises(ValueError, match="0 \\(normal\\) or 1"):
        metrics.image_metrics(ones, np.array([0, 1, 2]))
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            metrics.image_metrics(np.array([0, wrong, 1]), np.array([0, 1, 1]))
        with pytest.raises(ValueError, match="NaN or infinity"):
            metrics.pixel_metrics(np.full((1, 2, 2), wrong), np.ones((1, 2, 2), bool))


@given(_SCORES, _LABELS)
def test_roc_points_are_a_curve_with_the_area(scores, labels):
    fpr, tpr = metrics.roc_points(scores, labels)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert reference.auc(fpr, tpr) == pytest.approx(metrics.image_AUROC(scores, labels))


def _two_detectors():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], (60, 40))
    before = np.round(labels * 0.8 + rng.normal(size=100), 1)
    return labels, before, np.round(before + labels, 1)


@pytest.mark.parametrize("metric", [metrics.image_AUROC, metrics.image_AP, metrics.image_F1Max])
def test_bootstrap_in_one_batch_equals_one_by_one(metric, monkeypatch):
    labels, before, after = _two_detectors()
    batched = metrics.paired_bootstrap(metric, labels, before, after, repeats=50)
    one_by_one = metrics.paired_bootstrap(
        lambda scores, truth: metric(scores, truth), labels, before, after, repeats=50
    )
    assert batched == pytest.approx(one_by_one)
    monkeypatch.setattr(metrics.bootstrap, "_BLOCK", 700)  # blocks bound memory: a detail
    assert np.isfinite(metrics.paired_bootstrap(metric, labels, before, after, repeats=50)).all()


def test_bootstrap_interval():
    labels, before, after = _two_detectors()
    found = metrics.paired_bootstrap(metrics.image_AUROC, labels, before, after)
    difference, low, high = found
    assert 0 < low < difference < high < 0.5
    assert found == metrics.paired_bootstrap(metrics.image_AUROC, labels, before, after)
    assert found != metrics.paired_bootstrap(metrics.image_AUROC, labels, before, after, seed=1)
    assert metrics.paired_bootstrap(metrics.image_AUROC, labels, before, before) == (0, 0, 0)
