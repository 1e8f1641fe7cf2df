"""How a face's pixels move: smooth displacement fields over a square crop, and their inverse.

Thin plate splines (Bookstein 1989) through the 468 mesh points, two rings around the face and the
pinned border give one field per channel, computed once; a frame is their weighted sum plus the
head's turn over a depth map. Two fields are kept, one that knows the upper lip and one that knows
the lower, so that the mouth can tear open between them. Fields say where each pixel goes;
pictures need where it comes from, found by damped fixed-point iteration (undamped, it oscillates
and shows lips twice).

Knows nothing about colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from adapters.face_motion import ARKIT
from pipelines.face_mesh import Face
from pipelines.portrait_basis import LOWER_LIP, UPPER_LIP, basis, eye_axes

__all__ = ["GRID", "OVAL", "Fields", "Frame", "cell_centres", "frame_of", "inverse", "sampled"]

GRID = 128  # cells a side of the fields: 4 px at 512, about the spacing of the mesh at the lips
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
    148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""Outline of the face, clockwise from the forehead."""
CROP = 2.35  # crop side over the longer side of the face box
_TURNS = (16.0, 13.0, 13.0)  # degrees of yaw, pitch, roll that a single photo bears
_ROUNDS = 9  # of the inversion; the remaining error is below 0.3 px at jawOpen 1


@dataclass(frozen=True)
class Frame:
    """The square that moves: where it lies in the photo and what the face is inside it.

    left, top: photo pixels (may be negative); side: photo pixels; size: pixels a side as rendered.
    points (478, 2), depth (478,): in rendered pixels. unit: eye distance in rendered pixels.
    across, down: unit vectors of the face.
    """

    left: int
    top: int
    side: int
    size: int
    points: np.ndarray
    depth: np.ndarray
    unit: float
    across: np.ndarray
    down: np.ndarray

    def at(self, right: float, up: float) -> np.ndarray:
        """Pixel of a place given in eye distances from between the eyes."""
        middle = (self.points[468] + self.points[473]) / 2
        return np.asarray(middle + self.unit * (right * self.across - up * self.down))

    def local(self, x: np.ndarray, y: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, ...]:
        """Eye distances across and DOWN the face of pixels, seen from `origin`."""
        dx, dy = x - origin[0], y - origin[1]
        return (
            (dx * self.across[0] + dy * self.across[1]) / self.unit,
            (dx * self.down[0] + dy * self.down[1]) / self.unit,
        )


def frame_of(face: Face, size: int) -> Frame:
    """The crop for a face; photos are not enlarged, so `size` is the most."""
    left, top, right, bottom = face.box
    side = round(CROP * max(right - left, bottom - top))
    corner = (round((left + right - side) / 2), round((top + bottom - side) / 2))
    size = min(size, side)
    scale = size / side
    across, down = eye_axes(face)
    return Frame(
        corner[0], corner[1], side, size,
        (face.points - corner) * scale, face.depth * scale, face.eye_distance * scale, across, down,
    )  # fmt: skip


class Fields:
    """Displacements of one face for the 52 channels and `extra` ones of this face alone.

    Args:
        frame: the crop.
        extra: (N, 478, 2) further displacements in rendered pixels.
        device: where frames are computed.
    """

    def __init__(self, frame: Frame, extra: np.ndarray, device: torch.device) -> None:
        self.frame = frame
        moves = basis()[:, :, :2]
        pixels = moves[..., :1] * frame.across - moves[..., 1:] * frame.down
        pixels = np.concatenate([pixels * frame.unit, extra])
        # gaze and lids have their own renderer: here they would drag the skin along
        for k, name in enumerate(ARKIT):
            if name.startswith(("eyeBlink", "eyeLook", "eyeWide")):
                pixels[k] = 0
        self.count = len(pixels)
        places, values, stiff = self._controls(pixels)
        cells = (np.arange(GRID) + 0.5) * frame.size / GRID
        self.layers = []
        for hidden in (self._beyond(lower=True), self._beyond(lower=False)):
            keep = np.ones(len(places), bool)
            keep[hidden] = False
            field = _plate(places[keep], values[keep], stiff[keep], cells, frame.unit)
            self.layers.append(torch.from_numpy(field).to(device))
        self.pose = [torch.from_numpy(a).to(device) for a in self._head(cells)]

    def __call__(self, weights: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        """(2, B, 2, GRID, GRID) pixels: the field of the upper layer, then of the lower.

        weights: (B, 52 + N); turn: (B, 3) degrees.
        """
        moved = torch.stack([weights @ layer for layer in self.layers])
        moved = moved.view(2, len(weights), 2, GRID, GRID)
        x, y, z, share = self.pose
        nx, ny = self._turned(turn, x, y, z)
        return moved + torch.stack([(nx - x) * share, (ny - y) * share], 1)

    def carried(self, turn: torch.Tensor, place: np.ndarray, depth: float) -> torch.Tensor:
        """(B, 2) pixels by which the turn of the head carries one place of the face."""
        pivot = self.pivot
        x, y, z = (
            torch.tensor(float(v), device=turn.device, dtype=torch.float32)[None, None]
            for v in (place[0] - pivot[0], place[1] - pivot[1], depth)
        )
        nx, ny = self._turned(turn, x, y, z)
        return torch.stack([nx - x, ny - y], -1).view(-1, 2)

    def _turned(
        self, turn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates about the pivot after the turn of the head, seen from the front."""
        most = torch.tensor(_TURNS, device=turn.device)
        soft = most * torch.tanh(turn / most)
        yaw, pitch, roll = (torch.deg2rad(soft[:, i])[:, None, None] for i in range(3))
        x1, z1 = x * yaw.cos() + z * yaw.sin(), z * yaw.cos() - x * yaw.sin()
        y1 = y * pitch.cos() - z1 * pitch.sin()
        return x1 * roll.cos() - y1 * roll.sin(), x1 * roll.sin() + y1 * roll.cos()

    @property
    def pivot(self) -> np.ndarray:
        """Where the head turns: the neck, half an eye distance below the chin."""
        return np.asarray(self.frame.points[152] + 0.5 * self.frame.unit * self.frame.down)

    def _controls(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places (P, 2), displacements (P, K, 2) and stiffness (P,) of mesh, rings and border."""
        frame = self.frame
        mesh = frame.points[:468].astype(np.float64)
        oval = frame.points[list(OVAL)].astype(np.float64)
        middle = oval.mean(0)
        low = np.clip((oval - middle) @ frame.down / (frame.unit * 1.2), 0, 1)
        on_oval = pixels[:, list(OVAL)].transpose(1, 0, 2)
        near = middle + (oval - middle) * 1.38
        far = middle + (oval - middle) * 1.85
        edge = np.linspace(0, frame.size, 9)
        border = np.array(
            [(x, y) for x in edge for y in edge if min(x, y) == 0 or max(x, y) == frame.size]
        )
        still = np.zeros((len(far) + len(border), self.count, 2))
        follow = on_oval * (0.5 * low)[:, None, None]  # the neck follows the jaw half the way
        places = np.concatenate([mesh, near, far, border])
        values = np.concatenate([pixels[:, :468].transpose(1, 0, 2), follow, still])
        stiff = np.full(len(places), 3e-4)
        stiff[: len(mesh)] = 2e-4
        stiff[list(OVAL)] = 2e-3  # outlines go jagged when the mesh is followed to the pixel
        lips = [i for row in (*UPPER_LIP, *LOWER_LIP) for i in row]
        stiff[lips] = 1e-5
        return places, values, stiff

    def _beyond(self, *, lower: bool) -> np.ndarray:
        """Mesh points that one layer must not know: the other lip and what hangs on it."""
        points = self.frame.points[:468]
        left, right = points[78], points[308]
        half = np.linalg.norm(right - left) / 2
        axis = (right - left) / (2 * half)
        down = np.array([-axis[1], axis[0]])
        u = (points - (left + right) / 2) @ axis / half
        upper, under = (
            np.interp(u, (points[list(r)] - (left + right) / 2) @ axis / half,
                      (points[list(r)] - (left + right) / 2) @ down)
            for r in (UPPER_LIP[0], LOWER_LIP[0])
        )  # fmt: skip
        v = (points - (left + right) / 2) @ down
        span = np.abs(u) < 0.96
        margin = 0.3 * self.frame.unit
        if lower:  # the upper layer: forget what lies under its seam
            beyond = span & (v > upper + 0.5) & (v < under + 3 * margin)
            beyond[list(UPPER_LIP[0])] = False
            beyond[list(LOWER_LIP[0][1:-1])] = True
        else:
            beyond = span & (v < under - 0.5) & (v > upper - margin)
            beyond[list(LOWER_LIP[0])] = False
            beyond[list(UPPER_LIP[0][1:-1])] = True
        return np.flatnonzero(beyond)

    def _head(self, cells: np.ndarray) -> list[np.ndarray]:
        """x, y, z about the pivot and the share of the turn, each (GRID, GRID) float32."""
        frame = self.frame
        oval = frame.points[list(OVAL)]
        middle = oval.mean(0)
        x, y = np.meshgrid(cells, cells)
        angle = np.arctan2(oval[:, 1] - middle[1], oval[:, 0] - middle[0])
        radius = np.linalg.norm(oval - middle, axis=1)
        order = np.argsort(angle)
        around = np.arctan2(y - middle[1], x - middle[0])
        ring = np.interp(around, angle[order], radius[order], period=2 * np.pi)
        away = np.hypot(x - middle[0], y - middle[1]) / ring
        share = _step(2.1, 1.25, away)
        # shoulders stay: below the chin the share falls within an eye distance
        _, below = frame.local(x, y, frame.points[152])
        share = share * _step(1.15, -0.1, below)
        places = np.concatenate([frame.points[:468], middle + (oval - middle) * 1.45])
        deep = np.concatenate([frame.depth[:468], frame.depth[list(OVAL)] * 0.25])
        stiff = np.full(len(places), 5e-3)
        z = _plate(places.astype(np.float64), deep[:, None, None].repeat(2, 2), stiff, cells,
                   frame.unit)[0].reshape(2, GRID, GRID)[0]  # fmt: skip
        z = z.clip(0, 1.5 * frame.unit) * _step(1.9, 1.3, away)
        pivot = self.pivot
        parts = (x - pivot[0], y - pivot[1], z, share)
        return [np.ascontiguousarray(a, dtype=np.float32) for a in parts]


def inverse(field: torch.Tensor, size: int) -> torch.Tensor:
    """Where each cell comes from: (N, 2, G, G) as grid_sample counts, -1..1, for forward `field`.

    field: (N, 2, G, G) pixels of a square of `size`. Solves u(y) = -D(y + u(y)).
    """
    base = cell_centres(field.shape[-1], field.device)
    field = field * (-2.0 / size)
    back = field.permute(0, 2, 3, 1)
    for _ in range(_ROUNDS):
        there = functional.grid_sample(
            field, base + back, padding_mode="border", align_corners=False
        )
        back = torch.lerp(back, there.permute(0, 2, 3, 1), 0.5)
    return (base + back).permute(0, 3, 1, 2).contiguous()  # interpolates four times as fast


def sampled(picture: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) of a picture (1 or B, C, H, W) at places (B, h, w, 2), -1..1."""
    return functional.grid_sample(
        picture.expand(len(place), -1, -1, -1), place, padding_mode="border", align_corners=False
    )


def cell_centres(size: int, device: torch.device) -> torch.Tensor:
    """(1, S, S, 2) places of pixel centres as grid_sample counts them, -1..1."""
    line = (torch.arange(size, device=device, dtype=torch.float32) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)[None]


def _plate(
    places: np.ndarray, values: np.ndarray, stiff: np.ndarray, cells: np.ndarray, unit: float
) -> np.ndarray:
    """(K, 2 * G * G) float32: the smoothing thin plate spline through values (P, K, 2)."""
    scale = 1 / unit  # in eye distances the stiffness means the same for every size
    p = torch.from_numpy(places * scale)
    count = len(p)
    affine = torch.cat([torch.ones(count, 1, dtype=torch.float64), p], 1)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = _radial(p, p) + torch.diag(torch.from_numpy(stiff) * 10)
    system[:count, count:] = affine
    system[count:, :count] = affine.T
    right = torch.zeros(count + 3, values.shape[1] * 2, dtype=torch.float64)
    right[:count] = torch.from_numpy(np.ascontiguousarray(values)).reshape(count, -1)
    weights = torch.linalg.solve(system, right).float()
    y, x = np.meshgrid(cells * scale, cells * scale, indexing="ij")
    where = torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).float()
    out = torch.cat([
        torch.cat([_radial(part, p.float()), torch.ones(len(part), 1), part], 1) @ weights
        for part in where.split(4096)
    ])  # fmt: skip
    return np.ascontiguousarray(
        out.view(-1, values.shape[1], 2).permute(1, 2, 0).reshape(values.shape[1], -1).numpy()
    )


def _radial(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    square = torch.cdist(a, b).square_().clamp_(min=1e-9)
    return square * square.log()


def _step(start: float, end: float, x: np.ndarray) -> np.ndarray:
    """Smooth 0 at `start` to 1 at `end`, either order."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
