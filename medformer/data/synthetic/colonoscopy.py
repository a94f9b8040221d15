"""A generator of colonoscopy-like frames with exact polyp masks, deterministic in its seed.

A *group* stands for one patient's video: a colon, a palette and a polyp that are the same in all of its frames, while
the camera and the light move. Frames of one group are therefore related as in real data, and groups are not. Same seed,
same pixels on one machine; another processor may round a few pixels differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from medformer.data.cases import Case
from medformer.data.manifest import write_manifest
from medformer.data.synthetic.camera import Camera, develop
from medformer.data.synthetic.noise import Array
from medformer.data.synthetic.patient import SITES, Patient, Site, draw_patient, off_target, preview, view_from
from medformer.data.synthetic.render import Scene, polyp_area, shade
from medformer.errors import ConfigError
from medformer.files import sha256
from medformer.imaging.images import write_image
from medformer.imaging.masks import write_mask
from medformer.seeds import derive_seed


@dataclass(frozen=True)
class Frame:
    """An RGB picture uint8 (H, W, 3) and its polyp mask bool (H, W)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


class SyntheticColonoscopy:
    """Frames by (group, number); any of them can be made alone."""

    def __init__(self, size: tuple[int, int] = (256, 320), seed: int = 0) -> None:
        """Store the picture's size (rows, columns; at least 32 each) and the seed."""
        if min(size) < 32:
            raise ConfigError(f"Synthetic frames need at least 32 x 32 pixels, got {size[0]} x {size[1]}.")
        self.size = size
        self.seed = seed

    def site(self, group: int) -> Site:
        """The endoscope of a group; groups alternate between the sites."""
        return SITES[group % len(SITES)]

    def frame(self, group: int, number: int, *, polyp: bool = True) -> Frame:
        """Render frame `number` of a group, with or without its polyp."""
        patient = draw_patient(self.seed, group)
        rng = np.random.default_rng(derive_seed(self.seed, "synthetic", group, "frame", number, int(polyp)))
        scene = patient.scene if polyp else Scene(patient.scene.wall, None)
        camera = self._aim(patient, scene, rng)
        weight = patient.site.aperture.weight(self.size)
        inside = weight > 0.5
        # A few pixels more than the aperture shows, so that blur and sharpening meet tissue at its rim.
        wanted = cv2.dilate((weight > 0.0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        light, mirrored, mask = shade(scene, camera, wanted)
        brightness = light[inside].mean(1)
        exposure = rng.uniform(0.34, 0.5) / (np.percentile(brightness, 75.0) + 1e-6)
        exposed = np.minimum(light * np.float32(exposure) * np.array(patient.site.tint, np.float32), 6.0)
        sparkle = np.minimum(mirrored * np.float32(exposure * 0.9), 4.0)[..., None]
        exposed += sparkle * np.array([0.92, 0.97, 1.0], np.float32)
        if rng.random() < 0.3:
            exposed = _motion_blur(exposed, rng)
        picture = develop(
            exposed,
            rng,
            softness=patient.site.softness * self.size[0] / 256.0 * rng.uniform(0.85, 1.3),
            sharpening=patient.site.sharpening,
            interlace=patient.site.interlace * rng.uniform(0.0, 1.0),
            noise=rng.uniform(0.004, 0.01),
        )
        surround = patient.site.aperture.border / 255.0
        picture = surround + (picture - surround) * weight[..., None]
        return Frame(np.round(picture * 255.0).astype(np.uint8), mask & inside)

    def _aim(self, patient: Patient, scene: Scene, rng: np.random.Generator) -> Camera:
        """Move the camera a little around the patient's view until the polyp is well in the picture."""
        visible = preview(patient.site)
        best: tuple[float, Camera] | None = None
        for attempt in range(12):
            wobble = rng.normal(0.0, 1.0, 6) * (1.0 - 0.08 * attempt)
            camera = view_from(patient, wobble)
            if scene.polyp is None:
                return camera
            miss = off_target(polyp_area(scene, camera, visible))
            if best is None or miss < best[0]:
                best = (miss, camera)
            if miss == 0.0:
                break
        assert best is not None
        return best[1]


def _motion_blur(light: Array, rng: np.random.Generator) -> Array:
    length = float(rng.uniform(1.0, 3.0)) * light.shape[0] / 256.0
    direction = rng.uniform(0.0, np.pi)
    kernel = np.zeros((9, 9), np.float32)
    for step in np.linspace(-0.5, 0.5, 13):
        row, column = 4 + step * length * np.sin(direction), 4 + step * length * np.cos(direction)
        kernel[round(row), round(column)] += 1.0
    return np.asarray(cv2.filter2D(light, -1, kernel / kernel.sum()), np.float32)


def write_synthetic_colonoscopy(
    folder: Path,
    *,
    groups: int = 20,
    frames_per_group: int = 3,
    size: tuple[int, int] = (256, 320),
    seed: int = 0,
    empty: float = 0.0,
) -> Path:
    """Write a data set in Kvasir-SEG's layout (`images/`, `masks/`) with a manifest that names groups and sites.

    Args:
        folder: Where to; created if missing.
        groups: Number of patients.
        frames_per_group: Frames of each.
        size: Rows and columns, px.
        seed: Same seed, same files.
        empty: Fraction of all frames that show no polyp (their masks are empty).

    Returns:
        The path of `manifest.csv`.

    Raises:
        ConfigError: A number that makes no sense.
        ResourceError: The folder is not writable or the disk is full.
    """
    if groups < 1 or frames_per_group < 1 or not 0.0 <= empty <= 1.0:
        raise ConfigError(
            f"Got groups={groups}, frames_per_group={frames_per_group}, empty={empty}; expected at least one group and "
            "one frame, and a fraction in 0 .. 1."
        )
    folder = Path(folder).resolve()
    generator = SyntheticColonoscopy(size, seed)
    total = groups * frames_per_group
    order = np.random.default_rng(derive_seed(seed, "synthetic", "empty")).permutation(total)
    without = set(order[: round(empty * total)].tolist())
    cases = []
    for index in range(total):
        group, number = divmod(index, frames_per_group)
        frame = generator.frame(group, number, polyp=index not in without)
        name = f"p{group:03d}_f{number:02d}"
        image, mask = folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png"
        write_image(image, frame.image)
        write_mask(mask, frame.mask)
        site = generator.site(group).name
        cases.append(
            Case(id=name, image=image, mask=mask, group=f"p{group:03d}", site=site, split="", sha256=sha256(image))
        )
    manifest = folder / "manifest.csv"
    write_manifest(manifest, cases)
    return manifest
