import numpy as np
import pytest
import torch
from scipy import ndimage

from detectors.synthetic.image_synthesis import VISIBLE, ImageSynthesis, cutpaste, perlin
from detectors.synthetic.perlin import perlin_noise
from latent_common.errors import UserError

_MIX = ImageSynthesis({"cutpaste": 1.0, "perlin": 1.0})
_MAKERS = pytest.mark.parametrize("make", [cutpaste, perlin, _MIX], ids=["cutpaste", "perlin", "mix"])
_SHAPES = [(1, 8, 8), (3, 8, 8), (1, 16, 16), (3, 64, 64), (1, 64, 64), (1, 24, 40)]


def _seed(seed=0):
    return torch.Generator().manual_seed(seed)


def _images(batch, channels=1, height=16, width=16):
    return torch.rand(batch, channels, height, width, generator=_seed(99))


@_MAKERS
@pytest.mark.parametrize("shape", _SHAPES)
def test_masks_say_exactly_what_changed(make, shape):
    images = _images(40, *shape)
    given = images.clone()
    made = make(images, _seed())
    assert torch.equal(images, given)
    assert made.images.shape == images.shape
    assert made.masks.shape == (40, 1, *shape[1:])
    assert made.images.dtype == made.masks.dtype == torch.float32
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert set(made.masks.unique().tolist()) == {0.0, 1.0}
    assert (made.masks.sum((1, 2, 3)) > 0).all()
    change = (made.images - images).abs().amax(1, keepdim=True)
    assert (change[made.masks == 0] == 0).all()
    assert (change[made.masks == 1] > VISIBLE).all()


@_MAKERS
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_images_get_a_visible_anomaly_too(make, level):
    made = make(torch.full((30, 1, 16, 16), level), _seed())
    assert (made.masks.sum((1, 2, 3)) > 0).all()
    assert made.images.min() >= 0
    assert made.images.max() <= 1


@_MAKERS
def test_one_image_is_a_batch(make):
    assert make(_images(1), _seed()).images.shape == (1, 1, 16, 16)


def test_no_image_gives_no_anomaly():
    assert _MIX(_images(0), _seed()).images.shape == (0, 1, 16, 16)


@_MAKERS
def test_the_generator_decides(make):
    images = _images(10)
    first, again, other = make(images, _seed()), make(images, _seed()), make(images, _seed(1))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, other.images)


@_MAKERS
def test_the_global_generator_is_left_alone(make):
    before = torch.get_rng_state()
    make(_images(10), _seed())
    assert torch.equal(torch.get_rng_state(), before)


@_MAKERS
def test_double_precision_images_stay_so(make):
    assert make(_images(6).double(), _seed()).images.dtype == torch.float64


def test_cutpaste_rectangles_have_the_published_sizes():
    # Every pixel of this noise differs from every other place by more than the visible threshold,
    # nearly always: the bounding box of a mask is the rectangle.
    masks = cutpaste(_images(300, 3, 64, 64), _seed()).masks
    boxes = [ndimage.find_objects(mask[0].numpy().astype(int))[0] for mask in masks]
    heights, widths = np.array([[s.stop - s.start for s in box] for box in boxes]).T
    share, aspect = heights * widths / 64**2, heights / widths
    assert share.min() > 0.02 * 0.85  # whole pixels: a little to either side
    assert share.max() < 0.15 * 1.1
    assert share.min() < 0.03
    assert share.max() > 0.13
    assert aspect.min() > 0.3 * 0.8
    assert aspect.max() < 3.3 * 1.25
    assert 0.35 < (aspect < 1).mean() < 0.65


def test_cutpaste_takes_from_the_pool():
    images, pool = torch.full((60, 1, 16, 16), 0.2), torch.full((3, 1, 16, 16), 0.8)
    made = cutpaste(images, _seed(), pool)
    pasted = made.images[made.masks == 1]
    assert (pasted > 0.7).float().mean() > 0.8  # a patch of the flat image itself does not show


def test_perlin_uses_the_textures():
    # A red and a blue texture on grey: an anomaly is never green.
    textures = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    textures[0, 0] = textures[1, 2] = 255
    made = perlin(torch.full((40, 3, 16, 16), 0.5), _seed(), textures)
    red, green, blue = made.images.movedim(1, 0)[:, made.masks[:, 0] == 1]
    assert not torch.equal(red, blue)
    same_as_green = torch.isclose(red, green) | torch.isclose(blue, green)
    assert same_as_green.all()
    from_mix = ImageSynthesis({"perlin": 1.0}, textures)(_images(4, 3), _seed())
    assert not torch.equal(from_mix.images, _MIX(_images(4, 3), _seed()).images)


def test_textures_of_another_shape_are_refused():
    with pytest.raises(UserError, match="resize the textures"):
        perlin(_images(2), _seed(), torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_perlin_shapes_are_mostly_small():
    shares = perlin(_images(200, 1, 64, 64), _seed()).masks.mean((1, 2, 3))
    assert 0.01 < shares.median() < 0.15


def test_perlin_noise_is_perlin_noise():
    noise = perlin_noise(50, (32, 48), (4, 2), _seed())
    assert noise.shape == (50, 32, 48)
    assert noise.abs().max() <= 1
    assert noise.abs().max() > 0.7
    assert abs(noise.mean()) < 0.05
    # Four periods in 32 pixels: smooth between neighbours, unrelated two periods apart.
    assert (noise[:, 1:] - noise[:, :-1]).abs().max() < 0.5
    assert abs(torch.corrcoef(torch.stack([noise[:, :8].ravel(), noise[:, 24:].ravel()]))[0, 1]) < 0.2


def test_perlin_noise_matches_its_definition():
    periods = torch.tensor([[2, 4], [1, 3]])
    noise = perlin_noise(2, (8, 12), periods, _seed())
    angles = 2 * np.pi * torch.rand(2, 5, 5, generator=_seed()).double().numpy()

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    for sample, (down, across) in enumerate(periods.tolist()):
        for row in range(8):
            for column in range(12):
                y, x = (row + 0.5) / 8 * down, (column + 0.5) / 12 * across
                value = 0.0
                for a in (int(y), int(y) + 1):
                    for b in (int(x), int(x) + 1):
                        angle = angles[sample, a, b]
                        dot = np.sin(angle) * (y - a) + np.cos(angle) * (x - b)
                        value += fade(1 - abs(y - a)) * fade(1 - abs(x - b)) * dot
                assert noise[sample, row, column] == pytest.approx(2**0.5 * value, abs=1e-5)


def test_a_weight_of_zero_keeps_a_kind_out():
    images = _images(20)
    both = ImageSynthesis({"cutpaste": 2.0, "perlin": 0.0})(images, _seed())
    one = ImageSynthesis({"cutpaste": 1.0})(images, _seed())
    assert torch.equal(both.images, one.images)


def test_wrong_weights_are_named():
    with pytest.raises(UserError, match=r"unknown synthesis \['cutpase'\].*'cutpaste', 'perlin'"):
        ImageSynthesis({"cutpase": 1.0})
    for weights in ({}, {"perlin": 0.0}, {"perlin": -1.0}, {"cutpaste": 1.0, "perlin": -1.0}):
        with pytest.raises(UserError, match="at least one above 0"):
            ImageSynthesis(weights)
    with pytest.raises(UserError, match="finite"):
        ImageSynthesis({"perlin": float("nan")})
