"""A face in a photo that moves: curves of ARKit in, frames of the whole photo out.

Three layers, all warped from the photo's own pixels: the face above the seam of the lips, the jaw
below it, and the eyeballs behind their lids; between the lips lies a painted mouth. Everything is
`grid_sample`, so a batch of frames runs on an accelerator as it does on a CPU. The face goes back
into the photo where it came from: outside `Rig.box` no pixel changes, and a motion at rest returns
the photo.

Follows the warping renderers before neural ones (Beier & Neely 1992; Averbuch-Elor et al. 2017,
"Bringing Portraits to Life", for the hidden regions). It knows neither emotions nor sound.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from adapters.face_motion import ARKIT, Motion
from pipelines import portrait_source
from pipelines.face_mesh import Face
from pipelines.portrait_basis import basis
from pipelines.portrait_eyes import EYES, Eye, Lids, make_eye, render_eye
from pipelines.portrait_field import (
    GRID,
    OVAL,
    Fields,
    Frame,
    cell_centres,
    frame_of,
    inverse,
    sampled,
)
from pipelines.portrait_glasses import frame_of_glasses, without
from pipelines.portrait_mouth import corners, make_mouth, masks, own_place, paint_mouth
from pipelines.portrait_shade import SHADE_GRID, fold_maps, fold_weights, skin_map

__all__ = ["Rig"]

_AT = {name: k for k, name in enumerate(ARKIT)}
_JAW_DROP, _JAW_SIDE = 0.47, 0.12  # eye distances the lower teeth travel at 1


class Rig:
    """One face of one photo, ready to move.

    Args:
        image: the photo, any mode and size; frames have its size, in RGB.
        face: where the face is, from `face_mesh.detect`.
        size: most pixels a side at which the face is rendered; smaller faces are not enlarged.
        neutralise: 0..1, how far the photo's own smile and open lips give way to what is asked.
        device: where frames are computed.

    Set-up takes about a second; `box` is left, top, right, bottom of the pixels that may change.
    """

    def __init__(
        self,
        image: Image.Image,
        face: Face,
        *,
        size: int = 512,
        neutralise: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 64 <= size <= 2048:
            msg = f"size: 64 to 2048 pixels are allowed, received {size}; 512 suits films"
            raise ValueError(msg)
        if not 0 <= neutralise <= 1:
            msg = f"neutralise: 0 to 1 is allowed, received {neutralise:g}; 1 takes all back"
            raise ValueError(msg)
        self.device = torch.device(device)
        self.neutralise = neutralise
        self.photo = np.asarray(image.convert("RGB"))
        self._lay_out(face, size)
        frame = self.square
        smile = -portrait_source.smile_of(frame)
        self.own_smile, self.level = -smile, portrait_source.level_of(frame)
        moves = _pixels_of(frame, ("mouthSmileLeft", "mouthSmileRight"))
        extra = np.stack([smile * moves, portrait_source.closing(frame)])
        self.fields = Fields(frame, extra, self.device)
        self.lip_lift = self._lip_lift(extra)
        picture = self.crop
        flat = _is_flat(picture, frame.points)
        self.eyes = {s: make_eye(frame, picture, s, self.device, flat=flat) for s in EYES}
        white = max(eye.white for eye in self.eyes.values())
        self.mouth = make_mouth(frame, picture, white=white, flat=flat)
        glasses = None if flat else frame_of_glasses(frame, picture)
        upper, lower = masks(self.mouth, frame.size)
        self._layers(picture, glasses, upper, lower)
        skin = skin_map(frame, picture) * (0.22 if flat else 1.0)
        self.folds = torch.from_numpy(fold_maps(frame, skin)).to(self.device)
        self.fold_weights = torch.from_numpy(fold_weights()).to(self.device)

    # --- frames

    def frame(self, curves: np.ndarray, pose: np.ndarray | None = None) -> np.ndarray:
        """One frame, (H, W, 3) uint8: curves (52,) 0..1, pose (3,) degrees yaw, pitch, roll."""
        turn = np.zeros(3) if pose is None else np.asarray(pose)
        return next(self.frames(Motion(np.asarray(curves)[None], turn[None])))

    def frames(self, motion: Motion, *, batch: int = 8) -> Iterator[np.ndarray]:
        """Every frame of a motion, (H, W, 3) uint8, `batch` of them computed at a time."""
        if batch < 1:
            msg = f"batch: 1 or more is allowed, received {batch}; 8 suits processors"
            raise ValueError(msg)
        for curves, turn, own in self._plan(motion, batch):
            moved = self._full_size(self._crops(curves, turn, own))
            moved = (moved * 255).round_().clamp_(0, 255).to(torch.uint8)
            # laid out as rows of pixels here: numpy takes five times as long
            for crop in moved.permute(0, 2, 3, 1).contiguous().cpu().numpy():
                yield self._pasted(crop)

    @torch.inference_mode()
    def crops(self, motion: Motion, *, batch: int = 8) -> Iterator[torch.Tensor]:
        """The face alone: (B, 3, S, S) float 0..1 on the rig's device, for other renderers."""
        for curves, turn, own in self._plan(motion, batch):
            yield self._crops(curves, turn, own)

    def moves(self, motion: Motion) -> tuple[torch.Tensor, torch.Tensor]:
        """What moves the mesh in every frame of a motion, for who draws it elsewhere.

        (T, 52 + 2) curves as this photo bears them and the shares of its own smile and open lips
        that are taken back; (T, 3) degrees of the head.
        """
        curves, turn, own = next(self._plan(motion, max(len(motion), 1)))
        return self._weights(curves, own), turn

    def _plan(
        self, motion: Motion, batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Batches of curves (B, 52), turn (B, 3) and shares of the photo's expression (B, 2)."""
        smile, gap = portrait_source.shares(motion.curves, self.level)
        if len(motion) > 1:
            smile = portrait_source.smoothed(smile, motion.fps, self.level)
            gap = portrait_source.smoothed(gap, motion.fps)
        own = np.stack([smile, gap], 1) * self.neutralise
        for start in range(0, len(motion), batch):
            part = slice(start, start + batch)
            yield tuple(  # type: ignore[misc]
                torch.tensor(rows[part], dtype=torch.float32, device=self.device)
                for rows in (motion.curves, motion.pose, own)
            )

    # --- set-up

    def _lay_out(self, face: Face, size: int) -> None:
        """The crop, edge pixels repeated where it leaves the photo."""
        self.square = frame_of(face, size)
        frame, (height, width) = self.square, self.photo.shape[:2]
        right, bottom = frame.left + frame.side, frame.top + frame.side
        self.box = (max(frame.left, 0), max(frame.top, 0), min(right, width), min(bottom, height))
        rows = np.clip(np.arange(frame.top, bottom), 0, height - 1)
        columns = np.clip(np.arange(frame.left, right), 0, width - 1)
        crop = self.photo[np.ix_(rows, columns)]
        place = torch.from_numpy(crop.transpose(2, 0, 1).copy())[None].to(self.device)
        self.place = place.float() / 255  # (1, 3, side, side)
        if frame.size != frame.side:
            small = Image.fromarray(crop).resize((frame.size,) * 2, Image.Resampling.LANCZOS)
            crop = np.asarray(small)
        self.crop = crop.astype(np.float32) / 255

    def _layers(
        self, picture: np.ndarray, glasses: np.ndarray | None, upper: np.ndarray, lower: np.ndarray
    ) -> None:
        """Textures: the face (3 channels); the jaw with both layers' shares (5), its window."""
        frame, mouth = self.square, self.mouth
        y, x = np.mgrid[0 : frame.size, 0 : frame.size] + 0.5
        u = (x - mouth.origin[0]) * mouth.across[0] + (y - mouth.origin[1]) * mouth.across[1]
        # beside the mouth both fields agree: there the upper one takes over
        inner, outer = 1.35 * mouth.half, 1.35 * mouth.half + 0.4 * frame.unit
        t = np.clip((outer - np.abs(u)) / (outer - inner), 0, 1)
        lateral = (t * t * (3 - 2 * t)).astype(np.float32)
        share_up = 1 - (1 - upper) * lateral
        share_low = lower * lateral
        self.glasses = None
        if glasses is not None:
            bare, alpha = without(frame, picture, glasses)
            layer = np.concatenate([picture, alpha[..., None]], 2).transpose(2, 0, 1)[None]
            self.glasses = torch.from_numpy(np.ascontiguousarray(layer)).to(self.device)
            picture = bare
        face = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]
        shares = torch.from_numpy(np.stack([share_up, share_low]))[None]
        self.face = face.to(self.device)
        self.rest = torch.from_numpy(self.crop.transpose(2, 0, 1).copy())[None].to(self.device)
        self.shares = shares.to(self.device)
        self.jaw = torch.cat([self.face, self.shares[:, 1:]], 1)
        mended = corners(mouth, frame, picture, 1 - share_up - share_low)
        self.mended = None if mended is None else mended.to(self.device)
        line = torch.arange(frame.size, device=self.device, dtype=torch.float32) + 0.5
        gy, gx = torch.meshgrid(line, line, indexing="ij")
        self.pixels = torch.stack([gx, gy])[None]

    # --- one batch

    @torch.inference_mode()
    def _crops(self, curves: torch.Tensor, turn: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        size = self.square.size
        weights = self._weights(curves, own)
        back = inverse(self.fields(weights, turn).flatten(0, 1), size)
        upper, lower = back.unflatten(0, (2, len(curves)))
        place = functional.interpolate(upper, size=(size, size), mode="bilinear")
        out = sampled(self.face, place.permute(0, 2, 3, 1))
        lids = self._lids(curves)
        balls = [self._lid_skin(out, eye, lids[s], place, turn) for s, eye in self.eyes.items()]
        self._fold(out, curves, upper)
        for window, colour, alpha in balls:
            view = out[:, :, window[0], window[1]]
            view += alpha * (colour - view)
        self._lips(out, place, lower, curves, turn, weights)
        if self.glasses is not None:
            self._spectacles(out, turn)
        rim = -(-size // GRID)  # interpolation holds the outermost cells: nothing moves there
        for edge in (
            np.s_[:, :, :rim], np.s_[:, :, -rim:], np.s_[:, :, :, :rim], np.s_[:, :, :, -rim:]
        ):  # fmt: skip
            out[edge] = self.rest[edge]
        return out

    def _weights(self, curves: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """(B, 54) what the fields take: curves that the photo bears, then `own`.

        No second smile comes on a smile, and jaws meet the lips. own: (B, 2) shares of the photo's
        smile and open lips that are taken back.
        """
        out = curves.clone()
        smiles = [_AT["mouthSmileLeft"], _AT["mouthSmileRight"]]
        out[:, smiles] *= 1 - 0.55 * min(self.own_smile, 1.0) * (1 - own[:, :1])
        # lips cannot close further than the jaw has opened them
        close, jaw = _AT["mouthClose"], _AT["jawOpen"]
        out[:, close] = torch.minimum(out[:, close], out[:, jaw])
        return torch.cat([out, own], 1)

    def _lids(self, curves: torch.Tensor) -> dict[str, Lids]:
        """Lids and gaze of each eye; right and down as seen in the picture."""

        def of(name: str) -> torch.Tensor:
            return curves[:, _AT[name]]

        lids = {}
        for side, outwards in (("Left", 1.0), ("Right", -1.0)):
            right = outwards * (of(f"eyeLookOut{side}") - of(f"eyeLookIn{side}"))
            squint = of(f"eyeSquint{side}") + 0.45 * of(f"cheekSquint{side}")
            lids[side] = Lids(
                of(f"eyeBlink{side}"), of(f"eyeWide{side}"), squint.clamp(max=1.3), right,
                of(f"eyeLookDown{side}") - of(f"eyeLookUp{side}"),
            )  # fmt: skip
        return lids

    def _lid_skin(
        self, out: torch.Tensor, eye: Eye, lids: Lids, place: torch.Tensor, turn: torch.Tensor
    ) -> tuple[tuple[slice, slice], torch.Tensor, torch.Tensor]:
        """Move the lids of one eye in `out`; give the window, the eyeball and its alpha."""
        carried = self.fields.carried(turn, eye.centre, eye.depth)
        reach = 1.5 * eye.half + 0.3 * eye.unit
        rise = reach + 0.1 * eye.unit  # brows take the lids along
        window = rows, columns = self._window(eye.centre, carried, reach, rise, reach)
        here = self.pixels[:, :, rows, columns]
        ball = self._rigid(here, carried, turn, eye.centre)
        skin = self._to_pixels(place[:, :, rows, columns])
        moved, share, colour, alpha = render_eye(eye, lids, skin, ball)
        upper, lower = (sampled_at(self.face, part) for part in moved)
        # the windows of the two eyes may overlap: each paints only what its own lids move
        shifted = ((moved - skin).abs().sum(2).amax(0) * 8).clamp(0, 1)[:, None]
        view = out[:, :, rows, columns]
        view += shifted * (torch.lerp(lower, upper, share) - view)
        # at rest the photo's own pixels, which no painted white equals
        still = sampled_at(self.face, ball)
        return window, torch.lerp(still, colour, lids.active[:, None, None, None]), alpha

    def _spectacles(self, out: torch.Tensor, turn: torch.Tensor) -> None:
        """Lay the frame of the glasses over `out`: it rides on the nose and turns with the head."""
        frame = self.square
        nose = frame.points[6].astype(np.float64)
        carried = self.fields.carried(turn, nose, float(frame.depth[6]))
        reach = 1.5 * frame.unit
        rows, columns = self._window(nose, carried, reach, 0.7 * frame.unit, 0.9 * frame.unit)
        place = self._rigid(self.pixels[:, :, rows, columns], carried, turn, nose)
        layer = sampled_at(self.glasses, place)
        view = out[:, :, rows, columns]
        view += layer[:, 3:] * (layer[:, :3] - view)

    def _fold(self, out: torch.Tensor, curves: torch.Tensor, upper: torch.Tensor) -> None:
        """Multiply the folds of the skin into `out`, in the window around the face."""
        strength = (curves @ self.fold_weights).clamp(0, 1.2)
        if not bool((strength > 0).any()):
            return
        size = self.square.size
        shade = (strength @ self.folds).view(-1, 1, SHADE_GRID, SHADE_GRID)
        place = functional.interpolate(upper, size=(SHADE_GRID,) * 2, mode="bilinear")
        shade = sampled(shade, place.permute(0, 2, 3, 1)).clamp_(-0.5, 0.3)
        middle = slice(SHADE_GRID // 8, SHADE_GRID - SHADE_GRID // 8)
        low, high = (round(i * size / SHADE_GRID) for i in (middle.start, middle.stop))
        part = functional.interpolate(
            shade[:, :, middle, middle], size=(high - low,) * 2, mode="bilinear"
        )
        view = out[:, :, low:high, low:high]
        view.addcmul_(view, part).clamp_(0, 1)

    def _lips(
        self, out: torch.Tensor, place: torch.Tensor, lower: torch.Tensor, curves: torch.Tensor,
        turn: torch.Tensor, weights: torch.Tensor,
    ) -> None:  # fmt: skip
        """Lay the jaw and the inside of the mouth over `out`."""
        mouth, frame = self.mouth, self.square
        carried = self.fields.carried(turn, mouth.origin, mouth.depth)
        reach = 1.35 * mouth.half + 0.75 * frame.unit
        rows, columns = self._window(mouth.origin, carried, reach, 0.65 * frame.unit, frame.size)
        cells = cell_centres(frame.size, self.device)[:, rows, columns]
        cells = cells.expand(len(curves), -1, -1, -1)
        below = sampled(lower, cells).permute(0, 2, 3, 1)
        jaw = sampled(self.jaw, below)
        above = place[:, :, rows, columns]
        share = sampled(self.shares[:, :1], above.permute(0, 2, 3, 1))
        view = out[:, :, rows, columns]
        if self.mended is not None:  # as far as the photo's lips are closed
            shut = weights[:, -1, None, None, None]
            view = view + shut * sampled(self.mended, above.permute(0, 2, 3, 1))
            jaw[:, :3] += shut * sampled(self.mended, below)
        above = self._to_pixels(above)
        under = torch.minimum(jaw[:, 3:], 1 - share)
        u = (above[:, 0] - float(mouth.origin[0])) * float(mouth.across[0])
        u = u + (above[:, 1] - float(mouth.origin[1])) * float(mouth.across[1])
        within = ((mouth.half + 0.5 - u.abs()) / 1.5).clamp(0, 1)[:, None]
        gap = (1 - share - under) * within
        total = (share + under).clamp_min(1e-4)
        skin = (share * view + under * jaw[:, :3]) / total
        if bool((gap > 1e-3).any()):
            # the painted part is much smaller than the jaw: half an eye distance around the gap
            tall = np.flatnonzero((gap > 1e-3).amax((0, 1, 3)).cpu().numpy())
            wide = np.flatnonzero((gap > 1e-3).amax((0, 1, 2)).cpu().numpy())
            part = np.s_[:, :, tall[0] : tall[-1] + 1, wide[0] : wide[-1] + 1]
            here = self.pixels[:, :, rows, columns][part]
            inside = self._inside(here, carried, curves, turn, weights)
            skin[part] += gap[part] * (inside - skin[part])
        out[:, :, rows, columns] = skin

    def _to_pixels(self, place: torch.Tensor) -> torch.Tensor:
        """Places -1..1 as pixels of the crop."""
        return (place + 1) * (self.square.size / 2)

    def _inside(
        self, here: torch.Tensor, carried: torch.Tensor, curves: torch.Tensor, turn: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """(B, 3, h, w) behind the lips: painted, or the photo's own teeth."""
        mouth = self.mouth
        place = self._rigid(here, carried, turn, mouth.origin)
        dx, dy = place[:, 0] - float(mouth.origin[0]), place[:, 1] - float(mouth.origin[1])
        x = (dx * float(mouth.across[0]) + dy * float(mouth.across[1])) / mouth.unit
        y = (dx * float(mouth.down[0]) + dy * float(mouth.down[1])) / mouth.unit - mouth.middle
        drop = curves[:, _AT["jawOpen"]] * _JAW_DROP
        aside = (curves[:, _AT["jawLeft"]] - curves[:, _AT["jawRight"]]) * _JAW_SIDE
        skull = torch.stack([x, y], 1)
        jaw = torch.stack([x - aside[:, None, None], y - drop[:, None, None]], 1)
        lift = (weights @ self.lip_lift).unsqueeze(-1).unsqueeze(-1)  # (B, 2, 1, 1)
        bow = (x / (mouth.half / mouth.unit)).square().clamp(max=1)
        seam = float(mouth.seams[0][20]) / mouth.unit - mouth.middle
        ends = float(mouth.seams[0][0]) / mouth.unit - mouth.middle
        roof = y - (seam + lift[:, 0] + (ends - seam + lift[:, 1] - lift[:, 0]) * bow)
        painted = paint_mouth(mouth, skull, jaw, roof, curves[:, _AT["tongueOut"]])
        if not mouth.gap:
            return painted
        hole = (1 - self.shares.sum(1, keepdim=True)).clamp(0, 1)
        still = sampled_at(torch.cat([self.face, (hole * 50).clamp(0, 1)], 1), place)
        still = torch.lerp(painted, still[:, :3], still[:, 3:])
        if mouth.teeth:
            taken, alpha = own_place(mouth, place)
            painted = torch.lerp(painted, sampled_at(self.face, taken), alpha)
        # a mouth that moves shows no rim of the lips that lay over the teeth
        active = (weights[:, -1] + curves.sum(1) * 5).clamp(0, 1)[:, None, None, None]
        return torch.lerp(still, painted, active)

    def _lip_lift(self, extra: np.ndarray) -> torch.Tensor:
        """(52 + N, 2) eye distances DOWN that each weight moves the upper lip's middle and ends.

        extra: (N, 478, 2) pixels of this face's own channels.
        """
        own = np.stack([_pixels_of(self.square, (name,)) for name in ARKIT])
        down = np.concatenate([own, extra]) @ self.square.down / self.square.unit
        lift = np.stack([down[:, 13], (down[:, 78] + down[:, 308]) / 2], 1)
        return torch.tensor(lift, dtype=torch.float32, device=self.device)

    def _rigid(
        self, here: torch.Tensor, carried: torch.Tensor, turn: torch.Tensor, centre: np.ndarray
    ) -> torch.Tensor:
        """(B, 2, h, w) source of pixels `here` of something that only the head carries."""
        middle = torch.tensor(centre, dtype=torch.float32, device=here.device)[None, :, None, None]
        away = here - middle - carried[:, :, None, None]
        angle = torch.deg2rad(13.0 * torch.tanh(turn[:, 2] / 13.0))[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        x, y = away[:, 0], away[:, 1]
        return middle + torch.stack([x * cos + y * sin, y * cos - x * sin], 1)

    def _window(
        self, centre: np.ndarray, carried: torch.Tensor, wide: float, above: float, below: float
    ) -> tuple[slice, slice]:
        """Rows and columns that hold a part in every frame of the batch, a turn included."""
        low, high = (f(carried, 0).values.cpu().numpy() for f in (torch.min, torch.max))
        size = self.square.size
        x0, x1 = int(centre[0] + low[0] - wide), int(centre[0] + high[0] + wide) + 1
        y0, y1 = int(centre[1] + low[1] - above), int(centre[1] + high[1] + below) + 1
        return slice(max(y0, 0), min(y1, size)), slice(max(x0, 0), min(x1, size))

    def _pasted(self, crop: np.ndarray) -> np.ndarray:
        """The photo with the crop (side, side, 3) uint8 back in its place."""
        left, top = self.square.left, self.square.top
        out = self.photo.copy()
        x0, y0, x1, y1 = self.box
        out[y0:y1, x0:x1] = crop[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    @torch.inference_mode()
    def _full_size(self, crops: torch.Tensor) -> torch.Tensor:
        """Crops smaller than their place: enlarged where they moved, the photo elsewhere."""
        frame = self.square
        if frame.size == frame.side:
            return crops
        change = (crops - self.rest).abs().amax(1, keepdim=True)
        # widely, or the faint rim of a shape that has gone stays behind
        change = functional.max_pool2d(change, 9, 4, 4)
        change = functional.max_pool2d(((change * 255 - 0.5) / 2.5).clamp_(0, 1), 5, 1, 2)
        share = functional.avg_pool2d(change, 3, 1, 1)
        side = (frame.side, frame.side)
        share = functional.interpolate(share, size=side, mode="bilinear")
        big = functional.interpolate(crops, size=side, mode="bicubic")
        return torch.lerp(self.place, big, share)


def sampled_at(picture: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) of a square picture (1, C, S, S) at pixels (B, 2, h, w)."""
    size = picture.shape[-1]
    grid = place.permute(0, 2, 3, 1) * (2.0 / size) - 1
    return functional.grid_sample(
        picture.expand(len(place), -1, -1, -1), grid, padding_mode="border", align_corners=False
    )


def _pixels_of(frame: Frame, names: tuple[str, ...]) -> np.ndarray:
    """(478, 2) pixels that these channels at 1 move the points by."""
    moves = basis()[[_AT[name] for name in names], :, :2].sum(0)
    pixels = moves[:, :1] * frame.across - moves[:, 1:] * frame.down
    return np.asarray(pixels * frame.unit)


def _is_flat(picture: np.ndarray, points: np.ndarray) -> bool:
    """Whether the face is drawn in a few flat colours, as cartoons are."""
    mask = Image.new("L", picture.shape[1::-1])
    ImageDraw.Draw(mask).polygon([tuple(points[i]) for i in OVAL], fill=1)
    inside = np.asarray(mask, bool)
    grey = picture.mean(2)
    step = np.abs(np.diff(grey, axis=1, prepend=grey[:, :1]))[inside]
    tones = picture[inside]
    levels = np.floor(tones / np.median(tones) * 9)
    count = np.sort(np.unique(levels, axis=0, return_counts=True)[1])
    return bool((step < 0.5 / 255).mean() > 0.55 or count[-3:].sum() / count.sum() > 0.45)
