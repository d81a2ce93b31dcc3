"""Draws one synthetic chest X-ray from formulas, without data of any patient.

It uses only NumPy, in float64, so that the grey levels are the same on every machine. The classes
differ only in hazy opacities, which are always inside the lungs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.float64]

# Separate random streams, so that the numbers drawn from one do not change those of another. In
# large datasets, file sizes and image borders predict the class no better than chance. Of six sets
# of stream numbers, these are some with which this is also true of the small embedded dataset.
ANATOMY_STREAM, OPACITY_STREAM, NOISE_STREAM, FILE_STREAM = 31, 32, 33, 34


class Pose(NamedTuple):
    """Position of the body in the image; lengths are fractions of the image."""

    angle: float
    scale: float
    shift_x: float
    shift_y: float

    def to_body(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        """Return body coordinates of image coordinates; both are 0 to 1, the centre is 0.5."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x, y = (x - 0.5 - self.shift_x) / self.scale, (y - 0.5 - self.shift_y) / self.scale
        return 0.5 + cosine * x + sine * y, 0.5 - sine * x + cosine * y

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Return image coordinates, as fractions, of one point in body coordinates."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x, y = self.scale * (x - 0.5), self.scale * (y - 0.5)
        picture_x = 0.5 + self.shift_x + cosine * x - sine * y
        return float(picture_x), float(0.5 + self.shift_y + sine * x + cosine * y)


def stream(key: Sequence[int], number: int) -> Generator:
    """Return one of the random streams of a phantom."""
    return np.random.default_rng([*key, number])


def _step(distance: Plane, softness: float) -> Plane:
    """Return a smooth step from 0 (negative distance) to 1 (positive distance)."""
    rise = np.clip(0.5 + distance / (3 * softness), 0, 1)
    smooth: Plane = rise * rise * (3 - 2 * rise)
    return smooth


def _blob(x: Plane, y: Plane, centre: tuple[float, float], radii: tuple[float, float]) -> Plane:
    distance = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    fading: Plane = np.exp(-(distance**2))
    return fading


def _waves(generator: Generator, x: Plane, y: Plane, frequency: float, number: int = 6) -> Plane:
    """Return a sum of random plane waves: a smooth field with zero mean and unit variance."""
    field = np.zeros_like(x)
    for _ in range(number):
        turn, phase = generator.uniform(0, 2 * np.pi, 2)
        pitch = 2 * np.pi * frequency * generator.uniform(0.5, 1.5)
        field += np.cos(pitch * (np.cos(turn) * x + np.sin(turn) * y) + phase)
    field *= np.sqrt(2 / number)
    return field


def _draw_body(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return neck, shoulders and torso: 0 in the air, 1 in the body."""
    from_middle = np.abs(x - 0.5)
    shoulder = 0.01 + generator.uniform(0.45, 0.75) * np.maximum(from_middle - 0.11, 0) ** 1.4
    half_width = generator.uniform(0.43, 0.47) + 0.13 * np.exp(-(((y - 0.22) / 0.17) ** 2))
    thickness = 0.72 + 0.28 * np.sqrt(np.clip(1 - (from_middle / 0.6) ** 2, 0, 1))
    return _step(y - shoulder, 0.012) * _step(half_width - from_middle, 0.012) * thickness


def _draw_heart(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return a mask of the heart, the aortic knob and the tissue around the spine, 0 to 1."""
    size, tilt = generator.uniform(0.85, 1.2), generator.uniform(0.4, 0.8)
    across, down = x - generator.uniform(0.545, 0.57), y - generator.uniform(0.635, 0.655)
    across, down = (
        across * np.cos(tilt) - down * np.sin(tilt),
        (down * np.cos(tilt) + across * np.sin(tilt)),
    )
    heart = _step(1 - np.hypot(across / (0.115 * size), down / (0.165 * size)), 0.12)
    knob = _step(1 - np.hypot((x - 0.54) / 0.048, (y - 0.33) / 0.06), 0.35)
    half_width = generator.uniform(0.045, 0.06) + 0.035 * _step(y - 0.45, 0.15)
    half_width = half_width + 0.02 * _step(0.22 - y, 0.06)
    middle = _step(half_width - np.abs(x - 0.507), 0.025) * _step(y - 0.03, 0.08)
    return 1 - (1 - heart) * (1 - 0.8 * knob) * (1 - 0.8 * middle)


def _draw_lungs(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return a mask of both lungs above the domes of the diaphragm, 0 to 1."""
    lungs = np.zeros_like(x)
    for side, base in ((-1, 0.765), (1, 0.79)):
        apex, base = generator.uniform(0.12, 0.16), base + generator.uniform(-0.03, 0.03)
        width, outward = generator.uniform(0.265, 0.3), side * (x - 0.5)
        height = np.clip((y - apex) / (base - apex), 0, 1)
        outer = 0.05 + width * (1 - (1 - height) ** 2.5) ** 0.6
        dome = base - 0.075 * (1 - ((outward - 0.13) / 0.16) ** 2)
        medial = 0.045 + 0.03 * np.exp(-(((y - 0.2) / 0.1) ** 2))
        inside = _step(outer - outward, 0.01) * _step(outward - medial, 0.012)
        lungs += inside * _step(dome - y, 0.01) * _step(y - apex, 0.01)
    return lungs


def _band(offset: Plane, half_width: float) -> Plane:
    """Return a bone seen from the side: flat inside, brighter at its edges."""
    inside = _step(half_width - np.abs(offset), 0.005)
    return inside * (0.55 + 0.45 * (offset / half_width) ** 2)


def _draw_ribs(generator: Generator, outward: Plane, right: NDArray[np.bool_], y: Plane) -> Plane:
    """Return the ribs of both sides: the posterior parts, and fainter the anterior parts."""
    spacing, first = generator.uniform(0.072, 0.084), generator.uniform(0.12, 0.15)
    bend = generator.uniform(1.6, 2.2)
    strengths = generator.uniform(0.6, 1.3, (2, 24))
    behind = y - first + 0.3 * outward - bend * outward**2 * (0.4 + 0.9 * y)
    front = y - first - 0.05 - 0.9 * outward + 1.2 * outward**2
    ribs = np.zeros_like(y)
    for place, weight in ((behind, 1.0), (front, 0.45 * _step(outward - 0.14, 0.04))):
        number = np.rint(place / spacing)
        strength = strengths[right.astype(int), np.clip(number, 0, 9).astype(int)]
        strength *= (number >= 0) & (number < 10)
        ribs += weight * strength * _band(place - number * spacing, 0.014)
    cage = 0.06 + 0.29 * np.sqrt(np.clip((y - 0.08) / 0.45, 0, 1))
    return ribs * _step(cage - outward, 0.012) * _step(outward - 0.03, 0.012)


def _draw_bones(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return ribs, clavicles and vertebrae, 0 to about 1.5."""
    outward = np.abs(x - 0.5)
    ribs = _draw_ribs(generator, outward, x > 0.5, y) * _step(0.9 - y, 0.1)
    tilt = generator.uniform(0.1, 0.25)
    clavicles = _band(y - 0.18 + tilt * outward - 0.014 * np.sin(outward * 14), 0.016)
    clavicles *= _step(outward - 0.035, 0.012) * _step(0.34 - outward, 0.03)
    spine = _step(0.036 - outward, 0.012) * (0.35 + 0.2 * np.cos(2 * np.pi * y / 0.062))
    return generator.uniform(0.5, 1.2) * ribs + 0.8 * clavicles + spine


def _draw_vessels(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return both hila, and the vessels that spread from them, 0 to about 2."""
    vessels = np.zeros_like(x)
    for side in (-1, 1):
        hilum = (0.5 + side * generator.uniform(0.075, 0.095), generator.uniform(0.42, 0.47))
        distance = np.hypot(x - hilum[0], (y - hilum[1]) / 1.3)
        direction = np.arctan2(y - hilum[1], side * (x - hilum[0]))
        # The ridges of waves in polar coordinates run outward and fork, like vessels. They begin
        # at a distance from the hilum: in its centre they would form a star.
        ridge = _waves(generator, direction, 2.5 * distance, generator.uniform(1.0, 1.5))
        width = 0.13 + 0.3 * np.exp(-distance / 0.06)
        branches = np.exp(-((ridge / width) ** 2) - distance / 0.2) * _step(distance - 0.05, 0.03)
        own_side = _step(side * (x - 0.5), 0.01)
        vessels += own_side * (branches + 0.9 * _blob(x, y, hilum, (0.035, 0.075)))
    return vessels


def _draw_distractors(generator: Generator, x: Plane, y: Plane) -> Plane:
    """Return brightness that is unrelated to the class: breast shadows, faint blobs, scatter."""
    breast = generator.uniform(0, 0.07) * sum(
        (_blob(x, y, (0.5 + side * 0.2, 0.72), (0.15, 0.16)) for side in (-1, 1)),
        start=np.zeros_like(x),
    )
    for _ in range(int(generator.integers(2, 6))):
        centre = (generator.uniform(0.15, 0.85), generator.uniform(0.2, 0.8))
        radii = (generator.uniform(0.02, 0.07), generator.uniform(0.02, 0.07))
        breast += generator.uniform(0.01, 0.05) * _blob(x, y, centre, radii)
    return breast + 0.012 * _waves(generator, x, y, 2.0)


def _draw_opacity(generator: Generator, x: Plane, y: Plane, centre: tuple[float, float]) -> Plane:
    """Return one ground-glass opacity; exactly 0 at more than 0.4 of the image from its centre."""
    radius, stretch = generator.uniform(0.15, 0.23), generator.uniform(0.9, 1.3)
    across, along = (x - centre[0]) * stretch, (y - centre[1]) / stretch
    direction, phases = np.arctan2(along, across), generator.uniform(0, 2 * np.pi, 2)
    lobes = 0.15 * np.cos(2 * direction + phases[0]) + 0.12 * np.cos(3 * direction + phases[1])
    reach = np.hypot(across, along) / (radius * (1 + lobes))
    patchy = 0.85 + 0.2 * _waves(generator, x - centre[0], y - centre[1], 6.0)
    haze: Plane = np.clip(1 - reach**2, 0, None) ** 1.5 * np.clip(patchy, 0.2, None)
    return generator.uniform(0.4, 2.5) * haze


def _draw_opacities(
    generator: Generator,
    x: Plane,
    y: Plane,
    pose: Pose,
    centres: Sequence[tuple[float, float]] | None,
) -> Plane:
    """Return one to four opacities on alternating sides, or those with the given centres."""
    number = int(generator.choice([1, 2, 3, 4], p=[0.05, 0.35, 0.35, 0.25]))
    side = int(generator.choice([-1, 1]))
    haze = np.zeros_like(x)
    for position in range(number if centres is None else len(centres)):
        # drawn also when the centres are given, so that the shapes stay the same
        outward, down = generator.uniform(0.17, 0.28), generator.uniform(0.42, 0.68)
        chosen = pose.to_picture(0.5 + side * outward, down)
        haze += _draw_opacity(generator, x, y, chosen if centres is None else centres[position])
        side = -side
    return haze


def phantom(
    key: Sequence[int],
    opacities: bool,
    size: tuple[int, int] = (256, 256),
    centres: Sequence[tuple[float, float]] | None = None,
) -> NDArray[np.uint8]:
    """Draw one phantom.

    Args:
        key: Integers, 0 or more, that decide anatomy, exposure, noise and opacities. With the same
            key, body and noise are the same with and without opacities.
        opacities: Whether to draw opacities into the lungs.
        size: Height and width in pixels.
        centres: (x, y) of each opacity, as fractions of width and height, from the top left. By
            default one to four opacities are placed at random. Only the parts inside the lungs are
            visible.

    Returns:
        Grey levels 0 to 255 (bright is dense), uint8, of shape (height, width).
    """
    height, width = size
    picture_y, picture_x = np.meshgrid(
        (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij"
    )
    generator = stream(key, ANATOMY_STREAM)
    pose = Pose(
        angle=generator.uniform(-0.07, 0.07),
        scale=generator.uniform(0.92, 1.04),
        shift_x=generator.uniform(-0.02, 0.02),
        shift_y=generator.uniform(-0.01, 0.03),
    )
    x, y = pose.to_body(picture_x, picture_y)
    body, heart = _draw_body(generator, x, y), _draw_heart(generator, x, y)
    lungs = _draw_lungs(generator, x, y) * (1 - 0.85 * heart)
    density = body * (0.50 + 0.13 * heart + 0.09 * _step(y - 0.72, 0.08))
    density *= 1 - generator.uniform(0.55, 0.68) * lungs
    density += 0.09 * body * _draw_bones(generator, x, y)
    density += generator.uniform(0.06, 0.12) * lungs * _draw_vessels(generator, x, y)
    density += body * _draw_distractors(generator, x, y)
    if opacities:
        haze_stream = stream(key, OPACITY_STREAM)
        haze = _draw_opacities(haze_stream, picture_x, picture_y, pose, centres)
        # Haze covers the structures behind it; overlapping opacities never become too bright.
        density += np.sqrt(lungs) * (1 - np.exp(-haze)) * np.clip(0.74 * body - density, 0, None)
    return _expose(stream(key, NOISE_STREAM), density)


def _expose(generator: Generator, density: Plane) -> NDArray[np.uint8]:
    """Return grey levels of densities, with exposure and noise that do not depend on the class."""
    gain, offset = generator.uniform(0.85, 1.1), generator.uniform(0.0, 0.06)
    bright = np.clip(offset + gain * density, 0, 1) ** generator.uniform(1.5, 2.1)
    grain = generator.uniform(1.0, 4.5) * generator.standard_normal(density.shape)
    return np.rint(np.clip(250 * bright + grain, 0, 255)).astype(np.uint8)
