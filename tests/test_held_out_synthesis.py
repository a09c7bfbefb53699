from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import seeded
from torch import Tensor

from detectors.synthetic.held_out import HeldOutSynthesis, families
from detectors.synthetic.image_synthesis import VISIBLE, Synthetic
from latent_common.errors import UserError
from latent_env.data.builtin.phantom import make_phantom_dataset

FAMILIES = pytest.mark.parametrize("family", families())
SIZES = st.one_of(st.sampled_from([8, 16, 32, 64]), st.integers(8, 72))


def noise(batch: int, channels: int = 1, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=seeded(99))


def phantoms(count: int = 60) -> Tensor:
    images = make_phantom_dataset(64, train=count, valid=2, test=2).train.images
    return torch.from_numpy(images).float() / 255


def make(images: Tensor, seed: int = 0, names: Sequence[str] = ()) -> Synthetic:
    return HeldOutSynthesis(names)(images, seeded(seed))


def check(images: Tensor, made: Synthetic) -> None:
    """Everything that holds for any images."""
    batch, _, height, width = images.shape
    assert made.images.shape == images.shape
    assert made.masks.shape == (batch, 1, height, width)
    assert made.images.dtype == made.masks.dtype == images.dtype
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    change = (made.images - images).abs().amax(1, keepdim=True)
    assert torch.equal(made.masks, (change > VISIBLE).to(images.dtype))
    assert (change[made.masks == 0] == 0).all()
    assert (made.masks.sum((1, 2, 3)) > 0).all()


@settings(max_examples=60)
@given(
    family=st.sampled_from(families()),
    batch=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    height=SIZES,
    width=SIZES,
    contrast=st.sampled_from([0.0, 0.1, 1.0]),
    level=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_masks_say_exactly_what_changed(
    family: str,
    batch: int,
    channels: int,
    height: int,
    width: int,
    contrast: float,
    level: float,
    seed: int,
) -> None:
    images = torch.lerp(torch.tensor(level), noise(batch, channels, height, width), contrast)
    before = images.clone()
    for names in ([family], []):
        made = make(images, seed, names)
        assert torch.equal(images, before)
        check(images, made)
        again = make(images, seed, names)
        assert torch.equal(made.images, again.images)
        assert torch.equal(made.masks, again.masks)


@FAMILIES
def test_large_images_work_too(family: str) -> None:
    images = noise(3, 3, 256, 256)
    check(images, make(images, names=[family]))


@FAMILIES
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_images_are_shaded(family: str, channels: int, level: float) -> None:
    images = torch.full((30, channels, 16, 16), level)
    made = make(images, names=[family])
    check(images, made)
    if family != "line":
        change = (made.images - images).abs().amax((1, 2, 3))
        assert change.unique().numel() == 30  # a tint, the last resort, would be .2 for all
        assert made.masks.mean((1, 2, 3)).max() < 0.3


def test_every_family_is_its_own() -> None:
    images = phantoms(30)
    made = [make(images, names=[family]).images for family in families()]
    for first in range(len(made)):
        for second in range(first):
            assert (made[first] != made[second]).flatten(1).any(1).all()


@FAMILIES
def test_the_generator_decides(family: str) -> None:
    images = noise(8)
    state = torch.get_rng_state()
    first, other = (make(images, seed, [family]) for seed in (0, 1))
    assert (first.images != other.images).flatten(1).any(1).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_families_have_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(images: Tensor, draw: object, generator: torch.Generator) -> Synthetic:
        counts.append(len(images))
        return Synthetic(images, torch.ones_like(images[:, :1]))

    monkeypatch.setattr("detectors.synthetic.held_out._made", counted)
    number = len(families())
    make(noise(3 * number + 2, 1, 8, 8))
    assert sorted(counts) == [3] * (number - 2) + [4] * 2
    make(noise(number, 1, 8, 8), names=["warp", "fill"])
    assert sum(counts[number:]) == number
    assert counts[number:] == [number // 2] * 2


def test_one_image_may_get_any_family() -> None:
    image = noise(1, 1, 64, 64)
    made = torch.cat([make(image, seed).masks for seed in range(40)])
    assert len(made.flatten(1).sum(1).unique()) > 10


def test_no_image_gives_no_anomaly() -> None:
    assert make(noise(0)).images.shape == (0, 1, 32, 32)


def test_double_precision_images_stay_so() -> None:
    images = noise(12).double()
    check(images, make(images))


def test_unknown_families_are_named() -> None:
    with pytest.raises(UserError, match=r"unknown families \['wrap'\].*'warp'"):
        HeldOutSynthesis(["wrap"])


@FAMILIES
def test_anomalies_are_small_and_of_many_strengths(family: str) -> None:
    images = phantoms()
    made = make(images, names=[family])
    shares = made.masks.mean((1, 2, 3))
    assert shares.max() < 0.25
    assert shares.median() < 0.05
    change = (made.images - images).abs().sum((1, 2, 3)) / made.masks.sum((1, 2, 3))
    assert change.min() < 0.06  # some hardly show
    assert change.max() > 2 * change.min()


def on_stripes(family: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images of soft stripes between .3 and .7, a family's version of them, and its masks, bool."""
    wave = torch.sin(torch.arange(64) * 0.8)
    images = (0.5 + 0.2 * wave).expand(60, 1, 64, 64).contiguous()
    made = make(images, names=[family])
    return images, made.images, made.masks > 0.5


@pytest.mark.parametrize("family", ["warp", "speckle", "fill"])
def test_nothing_is_added_to_the_range_of_the_image(family: str) -> None:
    images, altered, _ = on_stripes(family)
    assert altered.min() >= images.min() - 1e-5
    assert altered.max() <= images.max() + 1e-5


@pytest.mark.parametrize("family", ["shade", "line"])
def test_shades_and_lines_go_one_way(family: str) -> None:
    images, altered, masks = on_stripes(family)
    change = altered - images
    up, down = ((masks & (sign * change > 0)).flatten(1).any(1) for sign in (1, -1))
    assert (up ^ down).all()
    assert 10 < up.sum() < 50


def test_blur_takes_detail_away_or_adds_some() -> None:
    images, altered, masks = on_stripes("blur")
    away_from_mean = ((altered - 0.5).abs() - (images - 0.5).abs()) * masks
    sharper = away_from_mean.sum((1, 2, 3)) > 0
    assert 5 < sharper.sum() < 35


def test_lines_are_thin() -> None:
    masks = on_stripes("line")[2].float()
    core = -torch.nn.functional.max_pool2d(-masks, 5, stride=1)  # what is left after a rim of two pixels
    assert (core.sum((1, 2, 3)) <= 0.1 * masks.sum((1, 2, 3))).all()


@pytest.mark.parametrize(("family", "grainy"), [("speckle", True), ("shade", False), ("fill", False)])
def test_only_speckle_is_grain(family: str, grainy: bool) -> None:
    images, altered, masks = on_stripes(family)
    both = masks[:, :, 1:] & masks[:, :, :-1]
    step = (altered[:, :, 1:] - altered[:, :, :-1])[both].abs().mean()  # along a stripe nothing changes
    change = (altered - images)[masks].abs().mean()
    assert (step > 0.7 * change) == grainy
