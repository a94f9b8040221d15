"""The tip of the endoscope: a fisheye lens between two lamps, and the shape of the picture it delivers."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from medformer.data.synthetic.noise import Array


@dataclass(frozen=True)
class Camera:
    """One viewpoint.

    Attributes:
        position: In the scene, shape (3,).
        forward: Unit viewing direction, shape (3,).
        up: Unit vector across it, shape (3,).
        angle: View angle at the corner of the picture, radians from the center.
    """

    position: Array
    forward: Array
    up: Array
    angle: float

    def rays(self, size: tuple[int, int]) -> Array:
        """Unit viewing directions, row by row, shape (H * W, 3); angles grow evenly from the center (fisheye)."""
        height, width = size
        half = 0.5 * np.hypot(height, width)
        y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / half
        x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / half
        across, down = np.meshgrid(x, y)
        distance = np.sqrt(across * across + down * down) + 1e-6
        sine = np.sin(distance * self.angle) / distance
        right = np.cross(self.forward, self.up)
        rays = (
            np.cos(distance * self.angle)[..., None] * self.forward
            + (sine * across)[..., None] * right
            - (sine * down)[..., None] * self.up
        )
        return np.ascontiguousarray(rays.reshape(-1, 3), np.float32)

    def lamps(self) -> tuple[Array, Array]:
        """Positions of the two lamps, unequally far from the lens."""
        right = np.cross(self.forward, self.up)
        first = self.position + 0.13 * right + 0.05 * self.up
        second = self.position - 0.08 * right + 0.04 * self.up
        return np.asarray(first, np.float32), np.asarray(second, np.float32)


@dataclass(frozen=True)
class Aperture:
    """The part of the picture that shows the patient: a rectangle with cut or rounded corners.

    Attributes:
        margin: Border on each side as a fraction of (height, width).
        cut: Size of the corners as a fraction of the rectangle's height.
        rounded: Whether corners are round, not cut at 45 degrees.
        border: Gray value of the surround, 0 .. 255.
    """

    margin: tuple[float, float]
    cut: float
    rounded: bool
    border: int

    def weight(self, size: tuple[int, int]) -> Array:
        """How much of each pixel lies inside, 0 .. 1, shape (H, W)."""
        height, width = size
        y = np.abs(np.arange(height, dtype=np.float32) + 0.5 - height / 2)[:, None]
        x = np.abs(np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None]
        tall, wide = height * (0.5 - self.margin[0]), width * (0.5 - self.margin[1])
        corner = self.cut * 2.0 * tall
        inner_y, inner_x = y - (tall - corner), x - (wide - corner)
        if self.rounded:
            outside = np.sqrt(np.maximum(inner_y, 0.0) ** 2 + np.maximum(inner_x, 0.0) ** 2) - corner
        else:
            outside = (inner_y + inner_x - corner) / np.float32(np.sqrt(2.0))
        outside = np.maximum(outside, np.maximum(y - tall, x - wide))
        return np.asarray(np.clip(0.5 - outside, 0.0, 1.0), np.float32)


def look_at(position: np.ndarray, target: np.ndarray, aside: tuple[float, float], roll: float, angle: float) -> Camera:
    """Aim a camera so that `target` appears `aside` (right, up; radians) of the picture's center."""
    toward = target - position
    toward = toward / np.linalg.norm(toward)
    helper = np.array([0.0, 1.0, 0.0]) if abs(toward[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(toward, helper)
    right /= np.linalg.norm(right)
    above = np.cross(right, toward)
    turned = np.cos(roll) * right + np.sin(roll) * above, np.cos(roll) * above - np.sin(roll) * right
    forward = toward - np.tan(aside[0]) * turned[0] - np.tan(aside[1]) * turned[1]
    forward /= np.linalg.norm(forward)
    up = turned[1] - (turned[1] @ forward) * forward
    up /= np.linalg.norm(up)
    return Camera(position.astype(np.float32), forward.astype(np.float32), up.astype(np.float32), angle)


def develop(
    linear: Array, rng: np.random.Generator, *, softness: float, sharpening: float, interlace: float, noise: float
) -> Array:
    """Turn linear light (H, W, 3) into what a video processor delivers, 0 .. 1: bloom, blur, sharpening, noise.

    Args:
        linear: Light after exposure, 1 about where the sensor saturates.
        rng: Source of the sensor's noise.
        softness: Blur of the optics, px.
        sharpening: Strength of the processor's edge enhancement.
        interlace: Shift between the two fields of an interlaced frame, px.
        noise: Standard deviation at mid gray.
    """
    excess = np.maximum(linear - 0.9, 0.0)
    glow = cv2.GaussianBlur(np.minimum(excess, 2.0), (0, 0), 4.0)
    encoded = (1.0 - np.exp(-1.6 * (linear + 0.25 * glow))) ** np.float32(1.0 / 2.2)
    # Processors deepen shadows and colors: a contrast curve, then more distance from gray.
    encoded = encoded * (0.55 + 0.45 * encoded * (2.0 - encoded))
    gray = encoded.mean(-1, keepdims=True)
    picture = cv2.GaussianBlur((gray + 1.22 * (encoded - gray)).astype(np.float32), (0, 0), softness)
    picture = _fringe(picture)
    wide = cv2.GaussianBlur(picture, (0, 0), 1.6)
    picture = picture + np.float32(sharpening) * (picture - wide)
    if interlace > 0.0:
        height, width = picture.shape[:2]
        shift = np.array([[1.0, 0.0, interlace], [0.0, 1.0, 0.0]], np.float32)
        moved = cv2.warpAffine(picture, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
        picture[1::2] = moved[1::2]
    grain = rng.standard_normal(picture.shape[:2], np.float32)[..., None]
    tint = cv2.GaussianBlur(rng.standard_normal(picture.shape, np.float32), (0, 0), 1.2)
    return np.asarray(np.clip(picture + np.float32(noise) * (grain + 1.5 * tint), 0.0, 1.0), np.float32)


def _fringe(picture: Array) -> Array:
    # Blue is focused a little smaller than red, as simple lenses do: colored rims toward the picture's edge.
    height, width = picture.shape[:2]
    layers = []
    for channel, scale in zip(range(3), (1.004, 1.0, 0.996), strict=True):
        zoom = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), 0.0, scale)
        layer = np.ascontiguousarray(picture[..., channel])
        layers.append(cv2.warpAffine(layer, zoom, (width, height), borderMode=cv2.BORDER_REPLICATE))
    return np.stack(layers, -1)
