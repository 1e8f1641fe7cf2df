"""What a file holds, whether it decodes, and which files are nearly the same.

Every file is opened once, as untrusted input, by `pipelines/media*.py` (or `adapters.face_motion`
for curves), hashed, measured, and drawn as a small grey picture: a photograph as itself, a sound as
its spectrogram, music as its piano roll, a face as its curves over time. One perceptual hash then
serves them all: the signs of low frequencies of that picture's cosine transform (pHash, Zauner
2010). Files whose hashes nearly agree and whose pictures correlate are near duplicates.

It deliberately does not know labels. Probes are kept in one JSON file, so that a set of a hundred
thousand files is decoded once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.face_motion import MotionError, read_csv
from adapters.files import replacing
from pipelines.media import load_image
from pipelines.media_midi import load_midi
from pipelines.media_records import MediaError
from pipelines.media_sound import load_sound

Floats = NDArray[np.float64]

SIDE = 32
"""Of the small picture that is hashed; its 8 x 8 lowest frequencies are kept."""
THUMB = 16  # of the one that is kept for a second look
MOST_BITS = 6
"""Of 64 by which near duplicates may differ."""
LEAST_LIKE = 0.97
"""Correlation of the thumbnails of near duplicates; copies in half the size have .98 and more."""
_FLAT = 2.0 / 255  # standard deviation of a picture that shows nothing
_FORMAT = 2  # of the file of probes
_BIN_MOST = 400  # hashes that share a band and are all compared


@dataclass(frozen=True, slots=True)
class Probe:
    """A file that decodes.

    sha256: of its bytes. width, height: pixels of a picture, else 0. seconds: length of a sound,
    piece or recording, else 0. bits: 64-bit perceptual hash. thumb: (256,) uint8 as bytes.
    """

    sha256: str
    width: int
    height: int
    seconds: float
    bits: int
    thumb: bytes


def probe(path: Path, modality: str) -> Probe:
    """Open a file and measure it.

    Raises:
        MediaError: damaged, of another format, or over the limits of `pipelines/media*.py`.
        MotionError: curves that cannot be read.
    """
    width = height = 0
    seconds = 0.0
    if modality == "image":
        image = load_image(path)
        width, height = image.size
        grid = np.asarray(image.convert("L").resize((SIDE, SIDE), 4), dtype=np.float64) / 255
    elif modality == "voice":
        sound = load_sound(path)
        seconds = sound.seconds
        grid = _spectrogram(sound.waveform.mean(axis=0), sound.sample_rate)
    elif modality == "music":
        piece = load_midi(path)
        seconds = float(piece.seconds)
        grid = _roll(piece.onset, piece.duration, piece.pitch)
    else:
        motion = read_csv(path)
        seconds = motion.seconds
        grid = _pooled(motion.curves.astype(np.float64).T)
    thumb = grid.reshape(THUMB, SIDE // THUMB, THUMB, SIDE // THUMB).mean(axis=(1, 3))
    return Probe(
        hashlib.sha256(path.read_bytes()).hexdigest(),
        width,
        height,
        round(seconds, 3),
        phash(grid),
        np.round(thumb.clip(0, 1) * 255).astype(np.uint8).tobytes(),
    )


def probe_all(
    root: Path,
    names: Sequence[str],
    modality: str,
    *,
    index: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Probe], list[tuple[str, str]]]:
    """(probes by name, [(name, why)] of what cannot be used) of files in a folder.

    index: JSON that remembers probes by name, size and time of change; written when anything is
    new, also when this is interrupted.
    """
    known = _remembered(index, modality)
    found: dict[str, Probe] = {}
    broken: list[tuple[str, str]] = []
    fresh: dict[str, tuple[int, int, Probe]] = {}
    try:
        for k, name in enumerate(names):
            path = root / name
            try:
                status = path.stat()
                old = known.get(name)
                if old is not None and old[:2] == (status.st_size, status.st_mtime_ns):
                    found[name] = old[2]
                else:
                    found[name] = probe(path, modality)
                    fresh[name] = (status.st_size, status.st_mtime_ns, found[name])
            except (MediaError, MotionError) as error:
                broken.append((name, str(error).replace(str(root) + "/", "")))
            except OSError as error:
                broken.append((name, f"{name}: cannot be read ({error.strerror})"))
            if (k + 1) % 2000 == 0:
                tell(f"{k + 1} of {len(names)} files looked at")
    finally:
        if index is not None and fresh:
            _remember(index, modality, {**known, **fresh})
    return found, broken


# Small pictures ----------------------------------------------------------------------------------


def phash(grid: Floats) -> int:
    """64 bits of a (32, 32) picture: which of its lowest frequencies lie above their median."""
    low = (_DCT @ grid @ _DCT.T)[1:9, 1:9]  # without the mean of rows or columns
    bits = (low > np.median(low)).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _cosines() -> Floats:
    k, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.asarray(np.cos(np.pi * k * (2 * x + 1) / (2 * SIDE)), dtype=np.float64)


_DCT = _cosines()


def _spectrogram(wave: NDArray[np.float32], rate: int) -> Floats:
    """(32 bands from 80 Hz to 6 kHz, 32 stretches) of level, 60 dB under the loudest are 0."""
    size = 1 << math.ceil(math.log2(rate * 0.032))
    wave = np.pad(wave, (0, max(0, size * 2 - len(wave))))
    hop = max(size // 2, (len(wave) - size) // 4000)  # of an hour 4,000 windows tell enough
    windows = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    power = (np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2).T
    edges = np.geomspace(80, min(6000, rate / 2), SIDE + 1) * size / rate
    first = np.minimum(edges[:-1].astype(int), len(power) - 1)
    last = np.maximum(first + 1, edges[1:].astype(int))
    bands = np.stack([power[a:b].mean(axis=0) for a, b in zip(first, last, strict=True)])
    level = 10 * np.log10(np.maximum(bands, 1e-12))
    return _columns(np.clip((level - level.max() + 60) / 60, 0, 1))


def _roll(onset: NDArray[Any], duration: NDArray[Any], pitch: NDArray[Any]) -> Floats:
    """(32 bands of pitch, 32 stretches) of how much sounds, the most is 1."""
    grid = np.zeros((SIDE, SIDE * 4))
    start, length = np.asarray(onset, dtype=float), np.asarray(duration, dtype=float)
    end = float((start + length).max())
    rows = np.clip((np.asarray(pitch, dtype=int) - 28) // 2, 0, SIDE - 1)  # E1 to the top octave
    first = np.clip((start / end * grid.shape[1]).astype(int), 0, grid.shape[1] - 1)
    last = np.maximum(first + 1, np.round((start + length) / end * grid.shape[1]).astype(int))
    for row, a, b in zip(rows, first, last, strict=True):
        grid[row, a:b] += 1.0
    return _columns(np.minimum(grid / 2, 1.0))


def _pooled(table: Floats) -> Floats:
    """Rows and columns of any table, averaged or repeated to (32, 32)."""
    return _columns(_columns(table.T).T)


def _columns(table: Floats) -> Floats:
    """Columns averaged, or repeated, to 32."""
    edges = np.linspace(0, table.shape[1], SIDE + 1)
    first = np.minimum(edges[:-1].astype(int), table.shape[1] - 1)
    last = np.maximum(first + 1, edges[1:].astype(int))
    sums = np.concatenate([np.zeros((len(table), 1)), np.cumsum(table, axis=1)], axis=1)
    return np.asarray((sums[:, last] - sums[:, first]) / (last - first), dtype=np.float64)


# Near duplicates ---------------------------------------------------------------------------------


def near_pairs(probes: Sequence[Probe]) -> list[tuple[int, int]]:
    """Pairs (i < j) of near duplicates; files of the same bytes are not among them.

    Hashes that differ in at most 6 bits agree in one of seven bands at least, so only files that
    share a band are compared.
    """
    if len(probes) < 2:
        return []
    hashes = np.array([p.bits for p in probes], dtype=np.uint64)
    raw = np.stack([np.frombuffer(p.thumb, dtype=np.uint8) for p in probes])
    thumbs = raw.astype(np.float32) / np.float32(255)
    means = thumbs.mean(axis=1)
    centred = thumbs - means[:, None]
    spread = np.linalg.norm(centred, axis=1)
    flat = spread < _FLAT * THUMB
    unit = centred / np.maximum(spread, 1e-9)[:, None]
    pairs: set[tuple[int, int]] = set()
    bounds = np.linspace(0, 64, MOST_BITS + 2).astype(int)
    for low, high in pairwise(bounds.tolist()):
        bands = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        bins: dict[int, list[int]] = defaultdict(list)
        for k, band in enumerate(bands.tolist()):
            bins[band].append(k)
        for members in bins.values():
            for block in _blocks(members, hashes):
                if len(block) < 2:
                    continue
                at = np.array(block)
                apart = np.bitwise_count(hashes[at][:, None] ^ hashes[at][None])
                like = unit[at] @ unit[at].T >= LEAST_LIKE
                dull = flat[at][:, None] | flat[at][None]
                same = np.abs(means[at][:, None] - means[at][None]) < 2 * _FLAT
                both = flat[at][:, None] & flat[at][None] & same
                hit = ((apart <= MOST_BITS) & like & ~dull) | both
                for a, b in zip(*np.nonzero(np.triu(hit, 1)), strict=True):
                    i, j = sorted((block[int(a)], block[int(b)]))
                    if probes[i].sha256 != probes[j].sha256:
                        pairs.add((i, j))
    return sorted(pairs)


def _blocks(members: list[int], hashes: NDArray[np.uint64]) -> list[list[int]]:
    """A bin as it is, or, where thousands share a band, runs of neighbouring hashes."""
    if len(members) <= _BIN_MOST:
        return [members]
    ordered = sorted(members, key=lambda k: int(hashes[k]))
    half = _BIN_MOST // 2
    return [ordered[k : k + _BIN_MOST] for k in range(0, len(ordered), half)]


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of `count` items the least item that it is connected with."""
    root = list(range(count))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = root[root[k]]
            k = root[k]
        return k

    for a, b in pairs:
        one, two = find(a), find(b)
        root[max(one, two)] = min(one, two)
    return [find(k) for k in range(count)]


# Remembering -------------------------------------------------------------------------------------


def _remembered(index: Path | None, modality: str) -> dict[str, tuple[int, int, Probe]]:
    """Probes of an earlier reading; none where the file is missing, damaged or of another form."""
    if index is None or not index.is_file():
        return {}
    try:
        data = json.loads(index.read_text(encoding="utf-8"))
        if (data["format"], data["modality"]) != (_FORMAT, modality):
            return {}
        return {name: (row[0], row[1], _probe_of(row)) for name, row in data["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return {}


def _probe_of(row: Sequence[Any]) -> Probe:
    sha256, width, height, seconds, bits, thumb = row[2:8]
    return Probe(sha256, width, height, seconds, int(bits, 16), base64.b64decode(thumb))


def _remember(index: Path, modality: str, probes: dict[str, tuple[int, int, Probe]]) -> None:
    rows = {
        name: [size, time, p.sha256, p.width, p.height, p.seconds, f"{p.bits:016x}",
               base64.b64encode(p.thumb).decode()]
        for name, (size, time, p) in sorted(probes.items())
    }  # fmt: skip
    with replacing(index) as fresh:
        fresh.write_text(
            json.dumps({"format": _FORMAT, "modality": modality, "files": rows}), encoding="utf-8"
        )
