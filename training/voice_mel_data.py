"""Any folder of speech for the mel route of voices: recordings read once, the average voice of all.

    FOLDER/manifest.csv with path, speaker, sentence_id, emotion (any of the last three may be "")
    FOLDER/[SPEAKER/]NAME_neutral.wav   FOLDER/[SPEAKER/]NAME_anger.wav   ...   FOLDER/any/other.mp3

Nothing has to be labelled or parallel to learn speech from. Takes of one sentence by one person,
neutral and in an emotion, are what the directions are fitted on; labels are core emotions or the
words of EmoDB. Long recordings are cut into pieces of 20 s. It deliberately does not know the
denoiser that learns from this.
"""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.directions import DirectionBank
from adapters.emotion import CORE
from adapters.files import replacing
from adapters.speech_encoder import SPEECH, SpeechEncoder, directions_from
from adapters.voice_analysis import RATE, VoiceError, at_rate
from pipelines.media_records import MediaError
from pipelines.media_sound import load_sound
from pipelines.voice_average import AverageVoice, Source, features_of, read_source
from training.voice_data import HELD_SENTENCES, HELD_SPEAKERS, NAMES

Singles = NDArray[np.float32]

SUFFIXES = (".wav", ".flac", ".mp3")
PIECE = 20 * RATE
SHORTEST = 30  # frames with speech: half a second
UNIT_STATES = 40_000  # that the kinds of sound are found among: 13 minutes
ROUNDS = 20  # of k-means
HELD_SHARE = 20  # one recording in so many is held out


class VoiceMelError(ValueError):
    """Recordings or settings nothing can be trained from; one line that says what to change."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file and what is known of it; "" for what is not."""

    path: Path
    name: str
    speaker: str
    sentence: str
    emotion: str


@dataclass(frozen=True, slots=True)
class Clip:
    """A piece of a recording made ready, T frames of 16 ms.

    mel: (T, 80) log10 at LEVEL. features: (T, 10). units: (T,) kinds of sound. speech: (T,) bool.
    embedding: (d,). pitch: (2,) median semitones re 100 Hz and logarithm of their deviation.
    """

    name: str
    speaker: str
    sentence: str
    emotion: str
    mel: Singles
    features: Singles
    units: NDArray[np.int64]
    speech: NDArray[np.bool_]
    embedding: Singles
    pitch: Singles

    def __len__(self) -> int:
        return len(self.mel)

    @property
    def held_out(self) -> bool:
        """Whether training may not see it: two people, two sentences, and one in twenty others."""
        known = self.speaker in HELD_SPEAKERS or self.sentence in HELD_SENTENCES
        return known or zlib.crc32(self.name.partition("#")[0].encode()) % HELD_SHARE == 0


# Reading -----------------------------------------------------------------------------------------


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings of a folder, by its manifest or by their names.

    Raises:
        VoiceMelError: no folder, or none in it.
    """
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("path")]
        found = [
            Recording(
                folder / row["path"],
                row["path"],
                row.get("speaker") or "",
                row.get("sentence_id") or "",
                _emotion(row.get("emotion") or ""),
            )
            for row in rows
        ]
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        found = [_named(path, folder) for path in paths]
    if not found:
        msg = f"data: {folder} holds no WAV, FLAC or MP3; give a folder of speech"
        raise VoiceMelError(msg)
    return found


def _named(path: Path, folder: Path) -> Recording:
    place = path.relative_to(folder)
    sentence, _, label = path.stem.rpartition("_")
    emotion = _emotion(label)
    known = sentence if emotion else ""
    return Recording(path, place.as_posix(), place.parent.as_posix(), known, emotion)


def _emotion(label: str) -> str:
    name = NAMES.get(label.lower(), label.lower())
    return name if name in (*CORE, "neutral") else ""


def _read(
    encoder: SpeechEncoder, recordings: Sequence[Recording], tell: Callable[[str], None]
) -> Iterator[tuple[Recording, str, Source]]:
    """Pieces with speech and their names; what cannot be read is told and left out."""
    for one in recordings:
        try:
            sound = load_sound(one.path)
            x = at_rate(sound.waveform, sound.sample_rate)
        except (MediaError, VoiceError, OSError) as error:
            tell(f"left out: {error}")
            continue
        for first in range(0, len(x), PIECE):
            read = read_source(encoder, x[first : first + PIECE])
            if read.analysis.speech.sum() >= SHORTEST:
                yield one, f"{one.name}#{first // PIECE}" if len(x) > PIECE else one.name, read


# What a training set says on average -------------------------------------------------------------


def read_all(
    recordings: Sequence[Recording],
    encoder: SpeechEncoder,
    units: int,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> tuple[AverageVoice, list[Clip]]:
    """Read every recording, and measure the average voice on those that are not held out.

    The kinds of sound are found in as many random pieces as UNIT_STATES needs, which stay in
    memory; of everything else only frames of the analysis do.

    Raises:
        VoiceMelError: too little speech.
    """
    order = np.random.default_rng(seed).permutation(len(recordings))
    average = AverageVoice(encoder.width, units)
    pieces = _read(encoder, [recordings[index] for index in order], tell)
    first: list[tuple[Recording, str, Source]] = []
    states = 0
    while states < UNIT_STATES and (piece := next(pieces, None)) is not None:
        first.append(piece)
        states += len(piece[2].states)
    if states < 20 * units:
        msg = f"data: {states} states of speech are too few for {units} units; "
        raise VoiceMelError(msg + "give more speech or fewer --units")
    fit_units(average, torch.cat([read.states for *_, read in first]), seed)
    clips = [_clip(average, *piece) for piece in first]
    clips += [_clip(average, *piece) for piece in pieces]
    clips.sort(key=lambda clip: clip.name)
    own = [clip for clip in clips if not clip.held_out]
    if not own:
        msg = f"data: all of {len(clips)} recordings with speech are held out; give more"
        raise VoiceMelError(msg)
    measure(average, own)
    return average, clips


def _clip(average: AverageVoice, one: Recording, name: str, read: Source) -> Clip:
    analysis = read.analysis
    hz = analysis.f0[analysis.voiced & analysis.speech].astype(np.float64)
    pitch = np.full(2, np.nan, dtype=np.float32)
    if len(hz) >= SHORTEST:
        semitones = 12 * np.log2(hz / 100)
        pitch[:] = np.median(semitones), np.log(max(float(semitones.std()), 0.1))
    return Clip(
        name=name,
        speaker=one.speaker,
        sentence=one.sentence,
        emotion=one.emotion,
        mel=read.mel.astype(np.float32),
        features=features_of(analysis),
        units=average.units_of(read.states, read.centres, len(analysis)),
        speech=analysis.speech,
        embedding=read.embedding.numpy(),
        pitch=pitch,
    )


def fit_units(average: AverageVoice, states: Tensor, seed: int = 0) -> None:
    """Find the kinds of sound in states (n, d), each coordinate of unit variance.

    k-means (Lloyd 1982) from centres that lie far apart (Arthur and Vassilvitskii 2007).
    """
    generator = torch.Generator().manual_seed(seed)
    if len(states) > UNIT_STATES:
        states = states[torch.randperm(len(states), generator=generator)[:UNIT_STATES]]
    mean, scale = states.mean(dim=0), states.std(dim=0).clamp_min(1e-4)
    z = (states - mean) / scale
    centres = z[torch.randint(len(z), (1,), generator=generator)]
    far = torch.full((len(z),), torch.inf)
    for _ in range(average.config.units - 1):
        far = torch.minimum(far, (z - centres[-1]).square().sum(dim=1))
        # 1e-9: also where fewer different states than units are left
        centres = torch.cat([centres, z[torch.multinomial(far + 1e-9, 1, generator=generator)]])
    for _ in range(ROUNDS):
        distance, nearest = torch.cdist(z, centres).min(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, z)
        counts = torch.bincount(nearest, minlength=len(centres))
        empty = counts == 0
        centres = sums / counts.clamp_min(1)[:, None]
        # a kind that nothing belongs to starts again at what is farthest from its own
        centres[empty] = z[distance.topk(int(empty.sum())).indices]
    for name, value in (("frame_mean", mean), ("frame_scale", scale), ("centres", centres)):
        getattr(average, name).data.copy_(value)


def measure(average: AverageVoice, clips: Sequence[Clip]) -> None:
    """Mean spectra of the units, mean and spread of embeddings, and what pitch goes with them."""
    sums = np.zeros((average.config.units, clips[0].mel.shape[1]))
    counts = np.zeros(average.config.units)
    for clip in clips:
        np.add.at(sums, clip.units, clip.mel)
        np.add.at(counts, clip.units, 1)
    mean = sums.sum(axis=0) / counts.sum()
    mels = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], mean)
    embeddings = np.stack([clip.embedding for clip in clips]).astype(np.float64)
    middle, scale = embeddings.mean(axis=0), np.maximum(embeddings.std(axis=0), 1e-4)
    pitch = np.stack([clip.pitch for clip in clips]).astype(np.float64)
    known = np.isfinite(pitch).all(axis=1)
    slopes = np.zeros((len(middle), 2))
    if known.sum() >= 10:
        z = (embeddings[known] - middle) / scale
        slopes = ridge(z, pitch[known] - pitch[known].mean(axis=0))[0]
    for name, value in {
        "mels": mels,
        "mel_mean": mean,
        "speech_mean": middle,
        "speech_scale": scale,
        "pitch": slopes,
    }.items():
        getattr(average, name).data.copy_(torch.from_numpy(value))


def ridge(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes (d, k) from x (n, d) to y (n, k), both of mean 0, and R2 (k,) of points left out.

    The penalty of each column is that with the least leave-one-out error (Allen's PRESS, 1974).
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    slopes, shares = np.zeros((x.shape[1], y.shape[1])), np.full(y.shape[1], -np.inf)
    total = np.square(y - y.mean(axis=0)).sum(axis=0)
    for penalty in len(x) * np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]):
        kept = s**2 / (s**2 + penalty)
        hat = np.square(u) @ kept
        left = (y - u @ (kept[:, None] * (u.T @ y))) / (1 - np.minimum(hat, 0.999))[:, None]
        share = 1 - np.square(left).sum(axis=0) / np.maximum(total, 1e-12)
        better = share > shares
        found = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ y))
        slopes[:, better], shares[better] = found[:, better], share[better]
    # where nothing can be told of a recording that was left out, nothing is said
    slopes[:, shares <= 0] = 0.0
    return slopes, shares


# Directions --------------------------------------------------------------------------------------


def paired(clips: Sequence[Clip]) -> list[tuple[Clip, Clip]]:
    """(neutral, emotional) takes of one sentence by one person."""
    cells: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        if clip.sentence and clip.emotion:
            cells.setdefault((clip.speaker, clip.sentence), []).append(clip)
    return [
        (calm, other)
        for cell in cells.values()
        for calm in cell
        for other in cell
        if calm.emotion == "neutral" != other.emotion
    ]


def fit_directions(clips: Sequence[Clip], digest: str, intensity: float = 1.0) -> DirectionBank:
    """Directions from the pairs among clips that are not held out.

    intensity: how strongly the takes are played; EmoDB's theatre is 1.3 of the cue table.

    Raises:
        VoiceMelError: no pairs.
    """
    own = [clip for clip in clips if not clip.held_out]
    differences: dict[str, list[Tensor]] = {}
    for calm, other in paired(own):
        change = torch.from_numpy((other.embedding - calm.embedding) / intensity)
        differences.setdefault(other.emotion, []).append(change)
    if not differences:
        msg = "pairs: no sentence is said neutrally and in an emotion by one person; "
        raise VoiceMelError(msg + "name takes NAME_neutral.wav and NAME_anger.wav")
    people: dict[str, list[Singles]] = {}
    for clip in own:
        if clip.emotion in ("", "neutral"):
            people.setdefault(clip.speaker, []).append(clip.embedding)
    means = torch.from_numpy(np.stack([np.mean(rows, axis=0) for rows in people.values()]))
    return directions_from(
        {name: torch.stack(rows) for name, rows in differences.items()}, means, digest=digest
    )


def anchor_pitch(
    average: AverageVoice, bank: DirectionBank, clips: Sequence[Clip], intensity: float = 1.0
) -> None:
    """Let moving along a direction move the pitch as far as the takes it was fitted on did.

    Slopes that were found among recordings shrink what they tell, least squares always do: the
    smallest change of them that gives the measured means is added. intensity: as `fit_directions`.
    """
    found: dict[str, list[Singles]] = {}
    for calm, other in paired([clip for clip in clips if not clip.held_out]):
        change = other.pitch - calm.pitch
        if np.isfinite(change).all():
            found.setdefault(other.emotion, []).append(change / intensity)
    if not found:
        return
    target = torch.from_numpy(np.stack([np.mean(rows, axis=0) for rows in found.values()])).double()
    rows = [CORE.index(name) for name in found]
    z = (bank.vectors[SPEECH][rows] / average.speech_scale.cpu()).double()
    gram = z @ z.T
    # 1 %: emotions that lie on nearly one axis do not pull against each other
    gram += 0.01 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(rows))
    slopes = average.pitch.detach().cpu().double()
    slopes = slopes + z.T @ torch.linalg.solve(gram, target - z @ slopes)
    average.pitch.data.copy_(slopes)


# Cache -------------------------------------------------------------------------------------------

ARRAYS = ("mel", "features", "units", "speech")


def prepared(
    folder: Path,
    cache: Path,
    encoder: SpeechEncoder,
    units: int,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> tuple[AverageVoice, list[Clip]]:
    """`read_all` of a folder, from `cache` where it holds the same files read the same way."""
    recordings = find_recordings(folder)
    sizes = [(one.name, one.path.stat().st_size) for one in recordings if one.path.is_file()]
    key = json.dumps([encoder.digest, units, seed, sizes, [r.emotion for r in recordings]])
    mark = f"{zlib.crc32(key.encode()):08x}"
    file, place = cache / f"clips-{mark}.npz", cache / f"average-{mark}"
    if file.is_file() and (place / "config.json").is_file():
        average = AverageVoice.from_pretrained(str(place), local_files_only=True)
        return average, load_clips(file)
    average, clips = read_all(recordings, encoder, units, seed, tell)
    average.save_pretrained(place)
    save_clips(file, clips)
    return average, clips


def save_clips(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips to one npz file, whole or not at all."""
    facts = [[c.name, c.speaker, c.sentence, c.emotion] for c in clips]
    arrays = {name: np.concatenate([getattr(clip, name) for clip in clips]) for name in ARRAYS}
    with replacing(path) as fresh, Path(fresh).open("wb") as file:
        np.savez(
            file,
            lengths=np.array([len(clip) for clip in clips]),
            facts=np.array(json.dumps(facts)),
            embedding=np.stack([clip.embedding for clip in clips]),
            pitch=np.stack([clip.pitch for clip in clips]),
            **arrays,
        )


def load_clips(path: Path) -> list[Clip]:
    """Read what `save_clips` wrote."""
    with np.load(path, allow_pickle=False) as found:
        ends = np.cumsum(found["lengths"])[:-1]
        columns = {name: np.split(found[name], ends) for name in ARRAYS}
        facts = json.loads(str(found["facts"]))
        single = {name: found[name] for name in ("embedding", "pitch")}
    return [
        Clip(
            *labels,
            **{name: rows[index] for name, rows in columns.items()},
            **{name: rows[index] for name, rows in single.items()},
        )
        for index, labels in enumerate(facts)
    ]
