"""Pathfinder (Linsley et al. 2018; Houtkamp and Roelfsema 2010): are two dots joined by a dashed curve?

An image holds two long dashed curves and some short ones that distract. The dots lie at both ends of one long curve
(1), or at an end of each (0). This is a generator of our own by that description, as the original images are a download
of several gigabytes; figures on it are not to be compared with published ones digit by digit.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

_SCALE = 4  # curves are drawn so many times larger, then averaged: soft edges


@dataclass(frozen=True)
class Style:
    """How images look: lengths in pixels of the image, angles in radians."""

    size: int = 32
    steps: int = 14
    step: float = 2.2
    dash: float = 0.4
    bend: float = 0.45
    distractors: int = 4
    distractor_steps: int = 5
    clearance: float = 2.2
    thickness: float = 0.4
    dot: float = 1.3


def generate(rng: np.random.Generator, style: Style = Style()) -> tuple[UInt8[np.ndarray, "size size"], int]:
    """One image and its label."""
    while True:
        paths: list[np.ndarray] = []
        for count in (style.steps, style.steps, *[style.distractor_steps] * style.distractors):
            path = _path(rng, style, count, paths)
            if path is None:
                break
            paths.append(path)
        if len(paths) >= 2:  # where there is no room, some distractors are missing
            break
    label = int(rng.integers(2))
    first, second = paths[:2]
    dots = (first[0], first[-1]) if label else (first[0], second[-1])
    return _draw(style, paths, dots), label


def _path(
    rng: np.random.Generator, style: Style, steps: int, others: list[np.ndarray], tries: int = 60
) -> Float[np.ndarray, "points 2"] | None:
    """A smooth path that keeps clear of itself, of the others and of the border."""
    taken = np.concatenate(others) if others else np.empty((0, 2))
    margin = style.dot + 1
    for _ in range(tries):
        point = rng.uniform(margin, style.size - margin, 2)
        angle, turn = rng.uniform(0, 2 * np.pi), 0.0
        points = [point]
        for _ in range(steps):
            turn = 0.5 * turn + rng.uniform(-style.bend, style.bend)
            angle += turn
            point = point + style.step * np.array([np.cos(angle), np.sin(angle)])
            near = np.concatenate([taken, np.array(points[:-1]).reshape(-1, 2)])
            inside = (point > margin).all() and (point < style.size - margin).all()
            if not inside or (len(near) and np.hypot(*(near - point).T).min() < style.clearance + style.thickness):
                break
            points.append(point)
        else:
            path = np.array(points)
            if not len(taken) or np.hypot(*(taken[:, None] - path[None]).T).min() > style.clearance + style.thickness:
                return path
    return None


def _draw(style: Style, paths: list[np.ndarray], dots: tuple[np.ndarray, np.ndarray]) -> UInt8[np.ndarray, "size size"]:
    side = style.size * _SCALE
    canvas = np.zeros((side, side), dtype=bool)

    def fill(centres: np.ndarray, radius: float) -> None:
        reach = int(np.ceil(radius * _SCALE)) + 1
        offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        pixels = np.round(centres * _SCALE).astype(int)[:, None] + offsets
        near = np.hypot(*(pixels + 0.5 - (centres * _SCALE)[:, None]).transpose(2, 0, 1)) <= radius * _SCALE
        x, y = np.clip(pixels[near], 0, side - 1).T
        canvas[y, x] = True

    along = np.linspace(0, style.dash, 6)[:, None, None]
    for path in paths:
        begins, moves = path[:-1], np.diff(path, axis=0)
        fill((begins + along * moves).reshape(-1, 2), style.thickness)
    fill(np.array(dots), style.dot)
    shape = (style.size, _SCALE, style.size, _SCALE)
    return (canvas.reshape(shape).mean((1, 3)) * 255).astype(np.uint8)
