"""What an emotion does to a voice: a change for every frame, against the person's own neutral.

    mu = sum over parts of w_part * strength * (a D_part + r W_part),  range terms times contour

The change has 28 columns (TARGETS): semitones, level, logarithm of local stretch, 24 bands of the
spectral envelope, breath. A frame belongs to parts of speech (PARTS): voiced or not, near the
beginning, middle or end of its phrase, or silent. D_part (12, 54) holds one direction for each core
emotion, W_part (3, 54) those of valence, arousal and dominance, in the same DirectionBank that
moves the prompts of images. More columns than TARGETS scale what the voice does already: the
distance of its pitch from its median, that of its level from its loud frames, and how the 24 bands
follow that level. Effort is heard in the accents: an angry vowel is bright where it is loud, while
the weak frames around it stay as they were. Everything is linear in the intensity, so 0 is no
change at all and every cue is monotone.

Six emotions are measured (EmoDB, differences to the same speaker's neutral take), six come from the
literature (assets/emotions/voice_cues.json says which and from where), all their levels do. After
the direction vectors of EmoReg (AAAI 2025), which lie in an embedding; these lie in the cues.

It deliberately does not know how a waveform is analysed or changed, nor how pairs of recordings are
aligned (training/voice_data.py). torch is loaded with the directions, not with this file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adapters.assets import ASSETS
from adapters.emotion import CORE
from adapters.files import replacing
from adapters.voice_analysis import BANDS
from adapters.voice_edit import TARGETS

if TYPE_CHECKING:
    from adapters.directions import DirectionBank

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CUES = ASSETS / "emotions" / "voice_cues.json"
DIRECTIONS = ASSETS / "models" / "voice-tiny" / "directions.safetensors"
"""The shipped directions."""
FAMILY = "voice-edits"
TOKENS = "tokens"

SEMITONES, ENERGY, STRETCH, BREATH = 0, 1, 2, 27
BAND = slice(3, 27)
"""Columns of TARGETS: semitones, dB, natural logarithm, dB each, dB of noise to harmonics."""
RANGES = ("pitch_range", "energy_range")
PITCH_RANGE, ENERGY_RANGE = len(TARGETS), len(TARGETS) + 1
COLOUR = slice(len(TARGETS) + len(RANGES), len(TARGETS) + len(RANGES) + BANDS)
"""Columns of directions beyond TARGETS: factors - 1, and dB of each band per dB of level."""
WIDTH = COLOUR.stop
LOWEST = np.array([-9.0, -12.0, math.log(0.5), *[-12.0] * BANDS, -12.0])
HIGHEST = np.array([12.0, 12.0, math.log(2.2), *[12.0] * BANDS, 12.0])
"""What a recording still sounds like itself after; targets and samples are kept between."""
QUALITY = ("tremor", "creak")
"""Two cues of `VoiceEdit` beside the 28: semitones of slow wavering, 0..1 of irregular periods."""

VOICED = ("voiced.begin", "voiced.middle", "voiced.end")
UNVOICED = ("unvoiced.begin", "unvoiced.middle", "unvoiced.end")
SILENT = "silent"
PARTS: tuple[str, ...] = (*VOICED, *UNVOICED, SILENT)
EDGE_SECONDS = 0.6  # how far the beginning and the end of a phrase reach; two or three syllables
PAUSE_SECONDS = 0.2  # silence that ends a phrase; stops of consonants are shorter
MOST_OFF_PITCH = 9.0  # semitones from the median that range terms still act on: octave errors
MOST_OFF_LEVEL = 20.0  # dB, the same for levels
RIDGE = 0.1  # the weight of images' directions (adapters.directions)
FEWEST_FRAMES = 200  # of a part, below which the mean of all parts stands in for it


class VoiceEmotionError(ValueError):
    """Directions or frames that cannot be used; one line that says what would do."""


# Frames ------------------------------------------------------------------------------------------


def frame_parts(voiced: ArrayLike, speech: ArrayLike, hop_seconds: float) -> Floats:
    """How much each frame belongs to each of PARTS: float64 (T, 7), rows sum to 1.

    voiced, speech: (T,) flags. Phrases are runs of speech between pauses of .2 s and more; within
    .6 s of their ends (less in short ones) frames move linearly from edge to middle.
    """
    said = np.asarray(speech, dtype=bool)
    tone = np.asarray(voiced, dtype=bool) & said
    out = np.zeros((len(said), len(PARTS)))
    begin, end = phrase_edges(said, hop_seconds)
    middle = 1.0 - begin - end
    for offset, rows in ((0, tone), (3, said & ~tone)):
        for k, share in enumerate((begin, middle, end)):
            out[rows, offset + k] = share[rows]
    out[~said, -1] = 1.0
    return out


def phrase_edges(speech: ArrayLike, hop_seconds: float) -> tuple[Floats, Floats]:
    """Nearness 0..1 to the beginning and to the end of the phrase, two float64 (T,)."""
    said = np.asarray(speech, dtype=bool)
    begin, end = np.zeros(len(said)), np.zeros(len(said))
    for first, last in phrases(said, hop_seconds):
        length = last - first
        reach = max(1.0, min(EDGE_SECONDS / hop_seconds, length / 2))
        at = np.arange(length) + 0.5
        begin[first:last] = np.clip(1.0 - at / reach, 0.0, 1.0)
        end[first:last] = np.clip(1.0 - (length - at) / reach, 0.0, 1.0)
    return begin, end


def phrases(speech: ArrayLike, hop_seconds: float) -> list[tuple[int, int]]:
    """Runs of speech as (first, last + 1) frames; shorter pauses than .2 s do not divide."""
    said = np.asarray(speech, dtype=bool)
    steps = np.flatnonzero(np.diff(np.concatenate([[False], said, [False]]).astype(np.int8)))
    found: list[tuple[int, int]] = []
    for first, last in zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True):
        if found and (first - found[-1][1]) * hop_seconds < PAUSE_SECONDS:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def contours(
    semitones: ArrayLike, voiced: ArrayLike, energy_db: ArrayLike, speech: ArrayLike
) -> Floats:
    """What the range terms scale: float64 (T, 2) pitch from its median, level from its mean.

    semitones: (T,) on any scale, used where voiced. 0 where unvoiced or silent.
    """
    tone, said = np.asarray(voiced, dtype=bool), np.asarray(speech, dtype=bool)
    pitch, level = (np.asarray(rows, dtype=np.float64) for rows in (semitones, energy_db))
    out = np.zeros((len(tone), 2))
    if tone.any():
        out[tone, 0] = (pitch[tone] - np.median(pitch[tone])).clip(-MOST_OFF_PITCH, MOST_OFF_PITCH)
    if said.any():
        out[said, 1] = (level[said] - level[said].mean()).clip(-MOST_OFF_LEVEL, MOST_OFF_LEVEL)
    return out


def loud_level(parts: Floats, contour: Floats) -> float:
    """dB above the mean at which the voice is heard: its level's mean weighted by amplitude.

    parts: (T, 7). contour: (T, 2). 0 where nothing is voiced.
    """
    weight = parts[:, :3].sum(axis=1) * 10 ** (contour[:, 1] / 20)
    return float((weight * contour[:, 1]).sum() / max(weight.sum(), 1e-9))


# Directions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VoiceDirections:
    """The directions of the emotions.

    bank: vectors[part] (12, 54) in the units of TARGETS (bands: of loud frames), for the range
        terms factor - 1, and dB of each band per dB of the frame's level; W[part] (3, 54).
    excess: float64 (12, 28) what was taken off the measured means at intensity 1: pitch beyond the
        most of the cue table, and level; 0 where nothing was.
    quality: float64 (12, 2) tremor and creak of the cue table, see QUALITY.
    band_hz: float64 (24,) centre frequencies of the bands.
    sources: what the figures were measured on, for cards and reports.
    gain: float64 (12,) what an asked intensity is multiplied by, since moving a recording keeps
        some of its neutrality; see training/voice_gain.py. `edit` takes what is multiplied already.
    """

    bank: DirectionBank
    excess: Floats
    quality: Floats
    band_hz: Floats
    sources: str = ""
    gain: Floats = field(default_factory=lambda: np.ones(len(CORE)))

    @classmethod
    def load(cls, path: Path | str = DIRECTIONS) -> VoiceDirections:
        """Read what `save` wrote: a file, or a model folder that holds directions.safetensors.

        Raises:
            VoiceEmotionError: no such file, or one of another kind.
        """
        from safetensors import SafetensorError, safe_open

        from adapters.directions import DirectionBank, DirectionError

        file = Path(path)
        file = file / DIRECTIONS.name if file.is_dir() else file
        if not file.is_file():
            msg = f"directions: {file} does not exist; run python -m training.voice_data"
            raise VoiceEmotionError(msg)
        try:
            bank = DirectionBank.load(file)
            with safe_open(str(file), framework="numpy") as opened:
                excess = opened.get_tensor("excess").astype(np.float64)
                quality = opened.get_tensor("quality").astype(np.float64)
                hz = opened.get_tensor("band_hz").astype(np.float64)
                gain = opened.get_tensor("gain").astype(np.float64)
                facts = json.loads((opened.metadata() or {})["affect"])["voice"]
            right = tuple(facts["targets"]) == TARGETS and bank.family == FAMILY
            right = right and all(D.shape[1] == WIDTH for D in bank.vectors.values())
        except (DirectionError, SafetensorError, KeyError, json.JSONDecodeError):
            right = False
        if not right:
            msg = (
                f"directions: {file} does not hold directions of the {len(TARGETS)} voice "
                "changes; run python -m training.voice_data"
            )
            raise VoiceEmotionError(msg)
        return cls(bank, excess, quality, hz, facts["sources"], gain)

    def save(self, path: Path | str) -> Path:
        """Write one safetensors file that `load` and `DirectionBank.load` both read."""
        from safetensors.numpy import save_file

        from adapters.directions import FORMAT

        tensors = {f"D.{name}": np.ascontiguousarray(D) for name, D in self.bank.vectors.items()}
        tensors |= {f"W.{name}": np.ascontiguousarray(W) for name, W in self.bank.W.items()}
        tensors |= {
            "excess": np.ascontiguousarray(self.excess),
            "quality": np.ascontiguousarray(self.quality),
            "band_hz": np.ascontiguousarray(self.band_hz),
            "gain": np.ascontiguousarray(self.gain),
        }
        voice = {"targets": list(TARGETS), "sources": self.sources}
        facts = {"format": FORMAT, "names": list(self.bank.names), **self.bank.report()}
        # One entry of metadata: safetensors writes several in an order of chance.
        text = json.dumps(facts | {"voice": voice}, sort_keys=True)
        with replacing(path) as fresh:
            save_file(tensors, fresh, metadata={"affect": text})
        return Path(path)

    def edit(
        self,
        parts: ArrayLike,
        contour: ArrayLike,
        track: ArrayLike,
        residuals: ArrayLike | None = None,
        strength: float = 1.0,
    ) -> Floats:
        """The mean change of every frame: float64 (T, 28), columns TARGETS.

        Args:
            parts: (T, 7) of `frame_parts`.
            contour: (T, 2) of `contours`.
            track: (T, 12) intensities in the order of CORE, or one row for all frames. Negative
                ones take an emotion away, as from a voice that already has it.
            residuals: (T, 3) or (1, 3) valence, arousal and dominance left over.
            strength: factor on everything.

        Rows of zeros give exactly 0. What is asked beyond LOWEST and HIGHEST is cut there.

        Raises:
            VoiceEmotionError: shapes that do not fit each other.
            DirectionError: a track of another shape, or numbers that are not finite.
        """
        shares, shape = np.asarray(parts, dtype=np.float64), np.asarray(contour, dtype=np.float64)
        offsets = self.bank.offsets(track, strength, residuals)
        rows = len(offsets[PARTS[0]])
        if shares.shape != (len(shape), len(PARTS)) or rows not in (1, len(shares)):
            msg = (
                f"parts, contour, track: need (T, {len(PARTS)}), (T, 2) and T or 1 rows, received "
                f"{shares.shape}, {shape.shape} and {rows} rows"
            )
            raise VoiceEmotionError(msg)
        out = np.zeros((len(shares), WIDTH))
        for index, name in enumerate(PARTS):
            out += shares[:, index : index + 1] * offsets[name].double().numpy()
        change = out[:, : len(TARGETS)]
        level = shape[:, 1] - loud_level(shares, shape)
        change[:, SEMITONES] += out[:, PITCH_RANGE] * shape[:, 0]
        change[:, ENERGY] += out[:, ENERGY_RANGE] * level
        change[:, BAND] += out[:, COLOUR] * level[:, None]
        return np.clip(change, LOWEST, HIGHEST)

    def wavering(self, parts: ArrayLike, track: ArrayLike, strength: float = 1.0) -> Floats:
        """Tremor and creak of every frame: float64 (T, 2), 0 where nobody speaks.

        parts, track: as in `edit`. Negative intensities count as none.
        """
        said = 1.0 - np.asarray(parts, dtype=np.float64)[:, -1:]
        asked = np.maximum(np.atleast_2d(np.asarray(track, dtype=np.float64)), 0.0)
        return np.asarray(np.minimum(said * strength * (asked @ self.quality), 1.0))

    @property
    def digest(self) -> str:
        """16 hex digits over all directions and their gains."""
        h = hashlib.sha256(np.ascontiguousarray(self.gain).tobytes())
        for name in PARTS:
            h.update(np.ascontiguousarray(self.bank.vectors[name].numpy()).tobytes())
            h.update(np.ascontiguousarray(self.bank.W[name].numpy()).tobytes())
        return h.hexdigest()[:16]


# Fitting -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One recording against another of the same person and sentence, frame by frame of the first.

    parts: (T, 7). contour: (T, 2) of the first. values: (T, 28), columns TARGETS; energy has mean
    0 over speech. known: (T, 28) where values could be measured. weight: (T,) of each frame in
    means, such as its amplitude. colour: (24,) how many dB more each band of a voiced frame follows
    a dB of the first's level than it did, found without the alignment.
    """

    parts: Floats
    contour: Floats
    values: Floats
    known: Flags
    weight: Floats
    colour: Floats = field(default_factory=lambda: np.zeros(BANDS))


def cue_table() -> dict[str, Any]:
    """The cues of the literature, `assets/emotions/voice_cues.json`."""
    found: dict[str, Any] = json.loads(CUES.read_text(encoding="utf-8"))
    return found


def tilt_shape(band_hz: ArrayLike) -> Floats:
    """(24,) dB per dB of alpha ratio: a smooth step at 1 kHz, one octave wide, of mean 0."""
    hz = np.asarray(band_hz, dtype=np.float64)
    step = np.tanh(np.log2(np.maximum(hz, 1.0) / 1000.0))
    return np.asarray((step - step.mean()) / tilt_of(step, hz))


def tilt_of(bands: ArrayLike, band_hz: ArrayLike) -> float:
    """dB of 1 to 5 kHz over what lies below, the alpha ratio of a change of bands (24,)."""
    hz, rows = np.asarray(band_hz, dtype=np.float64), np.asarray(bands, dtype=np.float64)
    return float(rows[(hz >= 1000) & (hz <= 5000)].mean() - rows[hz < 1000].mean())


def cue_directions(band_hz: ArrayLike, table: Mapping[str, Any] | None = None) -> dict[str, Floats]:
    """The cue table as directions: part -> float64 (12, 54), bands that follow no level."""
    rows = (table or cue_table())["emotions"]
    out = {part: np.zeros((len(CORE), WIDTH)) for part in PARTS}
    shape = tilt_shape(band_hz)
    for index, name in enumerate(CORE):
        row = rows[name]
        for part in PARTS:
            at = out[part][index]
            at[STRETCH] = math.log(row["duration"])
            if part == SILENT:
                continue
            at[SEMITONES] = row["pitch"]
            at[SEMITONES] += {"begin": row["onset"], "end": row["final"]}.get(_place(part), 0.0)
            at[ENERGY] = row["level"]
            at[BAND] = row["tilt"] * shape
            at[BREATH] = row["breath"]
            at[[PITCH_RANGE, ENERGY_RANGE]] = row["range"] - 1.0, row["dynamics"] - 1.0
    return out


def measured_directions(
    differences: Mapping[str, Sequence[Difference]],
    band_hz: ArrayLike,
    table: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Floats], Floats]:
    """Directions (12, 54) by part with what was measured put in place of cues, and the excess.

    Measured are the least-squares means of each part, every pair weighing the same, divided by the
    intensity that acted speech counts as, and how the bands follow the level. Two things stay with
    the table: level, which recordings lost, and the ranges of pitch and level, which regression on
    an alignment that is never exact makes too narrow (the table's are ratios of deviations).
    """
    table = table or cue_table()
    anchor, most = table["scale"]["emodb_intensity"], table["scale"]["most_pitch"]
    out = {part: np.zeros((len(CORE), WIDTH)) for part in PARTS}
    excess = np.zeros((len(CORE), len(TARGETS)))
    for name, pairs in differences.items():
        index, row = CORE.index(name), table["emotions"][name]
        colour = np.mean([pair.colour for pair in pairs], axis=0) / anchor
        ranges = np.array([row["range"] - 1.0, row["dynamics"] - 1.0])
        found = _part_means(pairs, anchor * ranges, anchor * colour) / anchor
        share = np.sum([pair.parts[:, :3].sum(axis=0) for pair in pairs], axis=0)
        voiced = share / share.sum() @ found[:3]
        pitch = float(voiced[SEMITONES])
        excess[index, SEMITONES] = pitch - float(np.clip(pitch, -most, most))
        excess[index, ENERGY] = voiced[ENERGY]  # level is that of the voice, whatever is unvoiced
        found -= excess[index]
        found[3:6, SEMITONES] = found[:3, SEMITONES]  # no voice, no pitch: as their neighbours
        found[:-1, ENERGY] += row["level"]
        found[-1, [SEMITONES, BREATH, ENERGY]] = 0.0
        found[-1, BAND] = 0.0
        for k, part in enumerate(PARTS):
            out[part][index, : len(TARGETS)] = found[k]
            if part != SILENT:
                out[part][index, [PITCH_RANGE, ENERGY_RANGE]] = ranges
            if part in VOICED:
                out[part][index, COLOUR] = colour
    return out, excess


def _part_means(pairs: Sequence[Difference], ranges: Floats, colour: Floats) -> Floats:
    """(7, 28) least-squares mean of each part, what follows pitch (ranges) and level taken out."""
    A = np.concatenate([pair.parts for pair in pairs])
    values = np.concatenate([pair.values for pair in pairs])
    known = np.concatenate([pair.known for pair in pairs])
    values[:, SEMITONES] -= ranges[0] * np.concatenate([pair.contour[:, 0] for pair in pairs])
    level = np.concatenate(
        [pair.contour[:, 1] - loud_level(pair.parts, pair.contour) for pair in pairs]
    )
    values[:, ENERGY] -= ranges[1] * level
    values[:, BAND] -= (level * A[:, :3].sum(axis=1))[:, None] * colour
    even = np.concatenate([np.full(len(pair.parts), 1.0 / len(pair.parts)) for pair in pairs])
    loud = np.concatenate([pair.weight / max(pair.weight.sum(), 1e-9) for pair in pairs])
    out = np.zeros((len(PARTS), len(TARGETS)))
    for column in range(len(TARGETS)):
        rows = known[:, column]
        if not rows.any():
            continue
        w = (even if column == STRETCH else loud)[rows]
        y = values[rows, column]
        if column == STRETCH:
            # The whole must last as long as the takes did: the mean of the logarithms is shorter.
            y = y + _shortfall(y, w)
        overall = float(np.average(y, weights=w))
        out[:, column] = overall
        present = A[rows].sum(axis=0) >= FEWEST_FRAMES
        if present.any():
            B = A[rows][:, present]
            # A little ridge: neighbouring parts share frames.
            G = B.T @ (w[:, None] * B) + 1e-3 * w.sum() * np.eye(B.shape[1])
            out[present, column] += np.linalg.solve(G, B.T @ (w * (y - overall)))
    return out


def _shortfall(stretch: Floats, weight: Floats) -> float:
    """What the logarithm of the mean of exp(stretch) is above the mean of stretch."""
    mean = math.log(float(np.average(np.exp(stretch), weights=weight)))
    return mean - float(np.average(stretch, weights=weight))


def fit(
    differences: Mapping[str, Sequence[Difference]], band_hz: ArrayLike, sources: str = ""
) -> VoiceDirections:
    """Directions from measured differences where there are any, from the cue table elsewhere.

    differences: core emotion -> pairs. An empty mapping gives the literature alone.
    """
    import torch

    from adapters.basis import factorise
    from adapters.directions import DirectionBank

    table = cue_table()
    vectors = cue_directions(band_hz, table)
    measured, excess = measured_directions(differences, band_hz, table)
    follow = _colour_of_tilt(measured, list(differences), table)
    for index, name in enumerate(CORE):
        for part in VOICED:
            vectors[part][index, COLOUR] = table["emotions"][name]["tilt"] * follow
    for name in differences:
        for part in PARTS:
            vectors[part][CORE.index(name)] = measured[part][CORE.index(name)]
    pairs = [pair for found in differences.values() for pair in found]
    shares = np.sum([pair.parts.mean(axis=0) for pair in pairs], axis=0) if pairs else np.ones(7)
    vectors[TOKENS] = sum(
        (vectors[part] * share for part, share in zip(PARTS, shares / shares.sum(), strict=True)),
        np.zeros((len(CORE), WIDTH)),
    )
    factors = {name: factorise(torch.from_numpy(D), RIDGE) for name, D in vectors.items()}
    bank = DirectionBank(
        digest=hashlib.sha256(json.dumps([TARGETS, PARTS]).encode()).hexdigest()[:16],
        family=FAMILY,
        vectors={name: torch.from_numpy(D).float() for name, D in vectors.items()},
        W={name: W.float() for name, (W, _) in factors.items()},
        r_squared={name: share for name, (_, share) in factors.items()},
        kept={name: [1.0] * len(CORE) for name in vectors},
        pairs=len(pairs),
    )
    quality = np.array([[table["emotions"][name][cue] for cue in QUALITY] for name in CORE])
    return VoiceDirections(bank, excess, quality, np.asarray(band_hz, dtype=np.float64), sources)


def _colour_of_tilt(
    measured: Mapping[str, Floats], names: Sequence[str], table: Mapping[str, Any]
) -> Floats:
    """(24,) by least squares over the measured emotions: what one dB of tilt goes with.

    Brighter voices are so by effort, which is strongest in accents: this stands in for emotions
    that nobody recorded. 0 without measured ones.
    """
    if not names:
        return np.zeros(BANDS)
    tilt = np.array([table["emotions"][name]["tilt"] for name in names])
    rows = measured[VOICED[1]][[CORE.index(name) for name in names], COLOUR]
    return np.asarray(tilt @ rows / (tilt @ tilt))


def _place(part: str) -> str:
    return part.partition(".")[2]
