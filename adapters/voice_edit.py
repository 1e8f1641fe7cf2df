"""An edit of a voice: what changes in each frame of the source, in units that people know.

The rows are differences, so that the same edit means the same to every speaker: semitones of pitch,
dB of level, the logarithm of the local stretch, dB of 24 bands of the envelope, and dB of noise to
harmonics. They lie on the frames of `adapters.voice_analysis` (16 ms of the SOURCE, whatever the
edit does to time). An edit of zeros changes nothing, exactly.

It deliberately knows neither where edits come from nor how they are rendered. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.voice_analysis import BANDS, Singles, VoiceError

Floats = NDArray[np.float64]

TARGETS: tuple[str, ...] = (
    "semitones",
    "energy_db",
    "log_stretch",
    *(f"band_{k:02d}" for k in range(BANDS)),
    "breath",
)
"""Names of the 28 columns of `VoiceEdit.rows`."""

# Widest values that are rendered, per field; beyond them nothing sounds like a voice any more.
LIMITS = {
    "semitones": 24.0,
    "energy_db": 24.0,
    "log_stretch": 1.3863,  # four times as long or as short
    "bands": 24.0,
    "breath": 24.0,
    "tremor": 2.0,
    "creak": 1.0,
}


@dataclass(frozen=True, slots=True)
class VoiceEdit:
    """Differences per source frame; T as in the Analysis of the source. float32.

    semitones: (T,) of pitch. energy_db: (T,) of level. log_stretch: (T,) natural logarithm of the
    local duration factor, > 0 is slower. bands: (T, 24) dB of the envelope; its level is taken out
    when it is rendered, so that energy_db alone changes how loud a frame is. breath: (T,) dB of
    noise to harmonics above 1.5 kHz, > 0 is breathier. tremor: (T,) semitones of a slow wavering
    (4-7 Hz, as of fear). creak: (T,) 0..1, irregular low periods (as of weary sadness).

    Raises:
        VoiceError: rows of different lengths, or values that are not finite or beyond `LIMITS`.
    """

    semitones: Singles
    energy_db: Singles
    log_stretch: Singles
    bands: Singles
    breath: Singles
    tremor: Singles = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    creak: Singles = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    def __post_init__(self) -> None:
        frames = len(np.atleast_1d(self.semitones))
        for item in fields(self):
            value = np.asarray(getattr(self, item.name), dtype=np.float32)
            if item.name in ("tremor", "creak") and value.size == 0:
                value = np.zeros(frames, dtype=np.float32)
            shape = (frames, BANDS) if item.name == "bands" else (frames,)
            if value.shape != shape:
                msg = f"{item.name}: an edit of {frames} frames needs the shape {shape}"
                raise VoiceError(f"{msg}, received {value.shape}; make all rows of one analysis")
            limit = LIMITS[item.name]
            low = 0.0 if item.name in ("tremor", "creak") else -limit
            if value.size and not (np.isfinite(value).all() and low <= value.min()):
                msg = f"{item.name}: numbers from {low:g} to {limit:g} can be rendered"
                raise VoiceError(f"{msg}; this has others; clip the edit")
            if value.size and value.max() > limit:
                msg = f"{item.name}: {low:g} to {limit:g} can be rendered, received {value.max():g}"
                raise VoiceError(f"{msg}; lower the intensity or clip the edit")
            object.__setattr__(self, item.name, value)

    @classmethod
    def identity(cls, frames: int) -> VoiceEdit:
        """The edit of zeros."""
        row = np.zeros(frames, dtype=np.float32)
        return cls(row, row, row, np.zeros((frames, BANDS), dtype=np.float32), row)

    @classmethod
    def constant(cls, frames: int, **values: ArrayLike) -> VoiceEdit:
        """The same in all frames: `VoiceEdit.constant(len(analysis), semitones=4)`."""
        filled = {
            name: np.broadcast_to(
                np.asarray(value, dtype=np.float32),
                (frames, BANDS) if name == "bands" else (frames,),
            ).copy()
            for name, value in values.items()
        }
        return replace(cls.identity(frames), **filled)

    @classmethod
    def from_rows(cls, rows: ArrayLike, clip: bool = True) -> VoiceEdit:
        """(T, 28) in the order of `TARGETS`; `clip` brings them within `LIMITS`."""
        table = np.asarray(rows, dtype=np.float32)
        if table.ndim != 2 or table.shape[1] != len(TARGETS):
            msg = f"rows: (frames, {len(TARGETS)}) are an edit, received {table.shape}"
            raise VoiceError(f"{msg}; see adapters.voice_edit.TARGETS")
        parts = {
            "semitones": table[:, 0],
            "energy_db": table[:, 1],
            "log_stretch": table[:, 2],
            "bands": table[:, 3:-1],
            "breath": table[:, -1],
        }
        if clip:
            parts = {name: np.clip(v, -LIMITS[name], LIMITS[name]) for name, v in parts.items()}
        return cls(**parts)

    def rows(self) -> Singles:
        """(T, 28) in the order of `TARGETS`; tremor and creak are not among them."""
        columns = (self.semitones, self.energy_db, self.log_stretch, self.bands, self.breath)
        return np.column_stack(columns)

    def __len__(self) -> int:
        return len(self.semitones)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes at all."""
        return not any(getattr(self, item.name).any() for item in fields(self))

    def scaled(self, amount: float) -> VoiceEdit:
        """Every difference times `amount` (creak and tremor as far as they are allowed)."""
        values = {}
        for item in fields(self):
            low = 0.0 if item.name in ("tremor", "creak") else -LIMITS[item.name]
            scaled = getattr(self, item.name) * np.float32(amount)
            values[item.name] = np.clip(scaled, low, LIMITS[item.name])
        return VoiceEdit(**values)
