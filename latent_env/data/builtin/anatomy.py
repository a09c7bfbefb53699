"""A synthetic patient: one axial slice through the upper abdomen, as CT shows it."""

from dataclasses import dataclass

import numpy as np

from latent_env.data.builtin.shapes import Canvas, Field, make_canvas, paint, random_waves, smooth_noise, soft

# Grey levels of the soft-tissue window, of 255.
AIR, FAT, MUSCLE, BONE = 6.0, 62.0, 112.0, 205.0
LIVER, SPLEEN, KIDNEY, STOMACH, BILE = 132.0, 140.0, 152.0, 104.0, 84.0


@dataclass(frozen=True)
class Anatomy:
    """A healthy slice without noise.

    :param image: ``(H, W)`` float, grey levels 0–255.
    :param inside: coverage of all that lies within the muscle wall, bones left out, ``(H, W)``.
    :param organs: coverage of each organ that lesions grow in, ``(H, W)`` each.
    """

    canvas: Canvas
    image: Field
    inside: Field
    organs: dict[str, Field]


def draw_anatomy(rng: np.random.Generator, size: int) -> Anatomy:
    """Draw one patient of ``size`` × ``size`` pixels; everything about it comes from ``rng``."""
    canvas = make_canvas(
        size,
        zoom=rng.uniform(1.01, 1.07),
        angle=rng.normal(0, 0.03),
        shift=(rng.normal(0, 0.012), rng.normal(0, 0.012)),
    )
    image = np.full((size, size), AIR, np.float32)
    inside = _body_wall(rng, canvas, image)
    organs = _organs(rng, canvas, image, inside)
    bones = _spine(rng, canvas, image)
    inside = inside * (1 - bones)
    organs = {name: coverage * inside for name, coverage in organs.items()}
    image *= np.float32(rng.normal(1, 0.015))  # exposure
    return Anatomy(canvas, image, inside, organs)


def _jitter(rng: np.random.Generator, x: float, y: float, scale: float = 0.02) -> tuple[float, float]:
    return x + rng.normal(0, scale), y + rng.normal(0, scale)


def _scaled(rng: np.random.Generator, a: float, b: float, scale: float = 0.04) -> tuple[float, float]:
    return float(a * np.exp(rng.normal(0, scale))), float(b * np.exp(rng.normal(0, scale)))


def _body_wall(rng: np.random.Generator, canvas: Canvas, image: Field) -> Field:
    """Skin, fat rim, muscle wall, ribs and the fat inside; returns the inside ``(H, W)``."""
    size = image.shape[0]
    width, height = rng.normal(0.88, 0.014), rng.normal(0.7, 0.016)
    rim, wall = rng.uniform(0.04, 0.08), rng.uniform(0.05, 0.065)

    def layer(depth: float) -> Field:
        # A superellipse: flanks and back of a lying patient are flatter than an ellipse's.
        a, b = width - depth, height - depth
        distance = (np.abs(canvas.x / a) ** 2.4 + np.abs(canvas.y / b) ** 2.4) ** (1 / 2.4)
        return soft((1 - distance) * np.float32(min(a, b)), canvas.pixel)

    skin, fat, muscle, inside = layer(0), layer(0.015), layer(rim), layer(rim + wall)
    paint(image, skin, MUSCLE - 15)
    paint(image, fat, FAT + rng.normal(0, 4))
    paint(image, muscle, MUSCLE + rng.normal(0, 4))
    mesentery = FAT + 14 + rng.normal(0, 4) + 7 * smooth_noise(rng, size, size / 18)
    paint(image, inside, mesentery)

    phase, count = rng.uniform(0, 1), 9
    for i in range(count):
        around = np.pi * (0.62 + 1.76 * (i + 0.7 * phase) / count)  # open towards the back
        depth = rim + 0.55 * wall
        x, y = (width - depth) * np.sin(around), -(height - depth) * np.cos(around)
        along = np.arctan2((height - depth) * np.sin(around), (width - depth) * np.cos(around))
        rib = canvas.ellipse((x, y), _scaled(rng, 0.085, 0.03, 0.1), along)
        paint(image, rib, BONE * rng.uniform(0.82, 1.0))
    return inside


def _organs(rng: np.random.Generator, canvas: Canvas, image: Field, inside: Field) -> dict[str, Field]:
    """Paint stomach, kidneys, spleen and the liver with its vessels; returns their coverage."""
    organs: dict[str, Field] = {}

    def organ(
        centre: tuple[float, float], radii: tuple[float, float], value: float, angle: float = 0.0
    ) -> Field:
        outline = random_waves(rng, 0.06)
        shape = canvas.ellipse(_jitter(rng, *centre), _scaled(rng, *radii), angle, outline)
        shape = shape * inside
        paint(image, shape, value + rng.normal(0, 4))
        return shape

    organs["stomach"] = organ((0.34, -0.24), (0.24, 0.17), STOMACH, rng.normal(-0.3, 0.15))
    if rng.random() < 0.5:  # swallowed air rises to the front
        bubble = canvas.ellipse(_jitter(rng, 0.34, -0.33), _scaled(rng, 0.1, 0.045, 0.25))
        paint(image, bubble * organs["stomach"], AIR + 14)
    for _ in range(rng.integers(2, 5)):  # loops of bowel
        loop = _jitter(rng, 0.14, 0.12, 0.09)
        organ(loop, _scaled(rng, 0.07, 0.06, 0.2), STOMACH + rng.normal(0, 10))
    organs["spleen"] = organ((0.6, 0.08), (0.12, 0.24), SPLEEN, rng.normal(0.12, 0.1))
    for side in (-1, 1):
        centre, angle = _jitter(rng, 0.38 * side, 0.31), side * rng.normal(-0.5, 0.12)
        kidney = organ(centre, (0.11, 0.145), KIDNEY, angle)
        pelvis = canvas.ellipse((centre[0] - 0.03 * side, centre[1]), (0.05, 0.06), angle)
        paint(image, pelvis * kidney, FAT + 25)
        organs[f"kidney {side:+d}"] = kidney
    organs["liver"] = _liver(rng, canvas, image, inside)
    return organs


def _liver(rng: np.random.Generator, canvas: Canvas, image: Field, inside: Field) -> Field:
    """Paint the liver, its vessels and perhaps a gall bladder; returns its coverage."""
    right = canvas.ellipse(_jitter(rng, -0.4, -0.06), _scaled(rng, 0.4, 0.4), 0.0, random_waves(rng, 0.05))
    left = canvas.ellipse(_jitter(rng, -0.08, -0.28, 0.03), _scaled(rng, 0.34, 0.16), rng.normal(0.1, 0.08))
    liver = np.maximum(right, left) * inside
    parenchyma = LIVER + rng.normal(0, 4) + 2 * smooth_noise(rng, image.shape[0], canvas.x.shape[0] / 24)
    paint(image, liver, parenchyma)
    # How bright vessels are depends on when the contrast agent came: seldom, hardly at all.
    phase = rng.uniform(3, 30)
    vessels = np.zeros_like(image)
    root, heading = _jitter(rng, -0.17, 0.02, 0.03), rng.normal(np.pi, 0.3)
    for turn in (-0.75, 0.05, 0.8):
        _branch(rng, canvas, vessels, root, heading + turn + rng.normal(0, 0.2), 0.036, 3)
    for _ in range(rng.integers(4, 10)):  # vessels that cross the slice
        dot = _jitter(rng, -0.38, -0.1, 0.17)
        radius = rng.uniform(0.015, 0.045)
        np.maximum(vessels, canvas.ellipse(dot, _scaled(rng, radius, radius, 0.15)), out=vessels)
    image += vessels * liver * np.float32(phase)
    if rng.random() < 0.4:
        bladder = canvas.ellipse(
            _jitter(rng, -0.22, 0.13, 0.03), _scaled(rng, 0.1, 0.065, 0.15), rng.normal(0.7, 0.3)
        )
        paint(image, bladder * inside, BILE + rng.normal(0, 4))
        liver = liver * (1 - bladder)
    return liver


def _branch(
    rng: np.random.Generator,
    canvas: Canvas,
    vessels: Field,
    start: tuple[float, float],
    heading: float,
    radius: float,
    generations: int,
) -> None:
    """Grow one vessel and its children into ``vessels`` ``(H, W)``, thinner each generation."""
    length = rng.uniform(0.12, 0.2)
    end = start[0] + length * np.cos(heading), start[1] + length * np.sin(heading)
    tube = canvas.tube(start, end, (radius, 0.75 * radius))
    np.maximum(vessels, tube, out=vessels)
    if generations > 1:
        for turn in (-0.45, 0.45):
            if rng.random() < 0.75:
                bend = heading + turn + rng.normal(0, 0.2)
                _branch(rng, canvas, vessels, end, bend, 0.7 * radius, generations - 1)


def _spine(rng: np.random.Generator, canvas: Canvas, image: Field) -> Field:
    """Paint back muscles, vertebra, aorta and vena cava; returns the bones' coverage ``(H, W)``."""
    x, y = _jitter(rng, 0.0, 0.3, 0.012)
    for side in (-1, 1):
        back = canvas.ellipse((x + 0.17 * side, y + 0.2), _scaled(rng, 0.15, 0.1))
        paint(image, back, MUSCLE + rng.normal(0, 3))
    body = canvas.ellipse((x, y), _scaled(rng, 0.13, 0.11))
    process = canvas.tube((x, y + 0.08), (x, y + 0.27), (0.05, 0.025))
    wings = canvas.tube((x - 0.17, y + 0.14), (x + 0.17, y + 0.14), (0.03, 0.03))
    bones = np.maximum(np.maximum(body, process), wings)
    paint(image, bones, BONE * rng.uniform(0.9, 1.05))
    paint(image, canvas.ellipse((x, y), (0.095, 0.075)), BONE * rng.uniform(0.78, 0.86))
    paint(image, canvas.ellipse((x, y + 0.14), (0.045, 0.04)), MUSCLE)
    phase = rng.uniform(5, 35)
    for side in (-1, 1):
        vessel = canvas.ellipse(_jitter(rng, x + 0.1 * side, y - 0.16, 0.012), _scaled(rng, 0.055, 0.055))
        paint(image, vessel, MUSCLE + 12 + phase)
    return bones
