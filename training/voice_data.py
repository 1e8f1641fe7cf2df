"""Parallel recordings as changes per frame: what one take does differently from another.

EmoDB (Burkhardt et al. 2005, CC0): ten people say ten sentences in seven emotions. Two takes of one
person and sentence are aligned (training/voice_align.py) and read along the path: semitones, level,
stretch, envelope bands, breath (adapters/voice_edit.py). Every ordered pair is used: neutral to
emotion, back, between emotions, and between takes of the same emotion, whose change should be none.

Recording levels were adjusted take by take, so level differences have no mean here; the cue table
gives it. Two people and two sentences are held out everywhere. The same command fits the emotions'
directions. It deliberately does not know the model that learns from the pairs.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.emotion import CORE
from adapters.files import replacing
from adapters.voice_analysis import BAND_CENTRES, HOP, RATE, analyse
from adapters.voice_edit import TARGETS
from adapters.voice_emotion import (
    BAND,
    BREATH,
    DIRECTIONS,
    ENERGY,
    MOST_OFF_LEVEL,
    PARTS,
    PITCH_RANGE,
    SEMITONES,
    STRETCH,
    Difference,
    VoiceDirections,
    contours,
    cue_table,
    fit,
    frame_parts,
    phrases,
    tilt_of,
)
from pipelines.media_sound import load_sound
from pipelines.voice_frames import STRETCH_FRAMES, VALUE_FRAMES, smooth
from training.voice_align import align, anchors, comparable

Floats = NDArray[np.float64]

HELD_SPEAKERS = ("emodb_12", "emodb_16")
HELD_SENTENCES = ("a07", "b10")
NAMES = {
    "angry": "anger",
    "bored": "boredom",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "neutral": "neutral",
}
CEPSTRA = 13
MOST_DB = 15.0
OCTAVE = 9.0  # semitones off the pair's median that one of the two trackings is wrong by
FEWEST_QUIET = 6  # frames without speech that tell the noise of a recording: .1 s
SHORTEST = 30  # frames with known pitch; a pair with fewer says nothing
CLARITY = (0.5, 1.6)  # least and most of the emotion's mean that one take is taken for


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording with its analysis (T frames of 16 ms) and its labels.

    f0, energy, breath: (T,). bands: (T, 24). speech: (T,) bool. cepstra: (T, 13). phones: (end in
    seconds, label) in order, may be empty. emotion: a core emotion or "neutral".
    """

    name: str
    speaker: str
    sentence: str
    emotion: str
    f0: NDArray[np.float32]
    energy: NDArray[np.float32]
    bands: NDArray[np.float32]
    breath: NDArray[np.float32]
    speech: NDArray[np.bool_]
    cepstra: NDArray[np.float32]
    phones: tuple[tuple[float, str], ...] = ()

    def __len__(self) -> int:
        return len(self.f0)

    @property
    def voiced(self) -> NDArray[np.bool_]:
        """(T,) has a pitch, within speech."""
        return (self.f0 > 0) & self.speech

    @property
    def semitones(self) -> Floats:
        """(T,) pitch re 1 Hz; 0 where unvoiced."""
        return np.where(self.f0 > 0, 12 * np.log2(np.maximum(self.f0, 1.0)), 0.0)

    @property
    def held_out(self) -> bool:
        """Whether no part of the training may see it."""
        return self.speaker in HELD_SPEAKERS or self.sentence in HELD_SENTENCES


@dataclass(frozen=True, slots=True)
class Pair:
    """Two takes: values (T, 28) and known (T, 28) along the frames of `source`, see TARGETS."""

    source: Clip
    target: Clip
    values: NDArray[np.float32]
    known: NDArray[np.bool_]

    def difference(self) -> Difference:
        """As the directions are fitted on."""
        clip = self.source
        parts = frame_parts(clip.voiced, clip.speech, HOP / RATE)
        contour = contours(clip.semitones, clip.voiced, clip.energy, clip.speech)
        values = self.values.astype(np.float64)
        colour = follows(clip, self.target)
        return Difference(parts, contour, values, self.known, loudness(clip), colour)


# Reading -----------------------------------------------------------------------------------------


def make_clip(
    waveform: NDArray[np.float32],
    rate: int,
    *,
    name: str,
    speaker: str,
    sentence: str,
    emotion: str,
    phones: Iterable[tuple[float, str]] = (),
) -> Clip:
    """Analyse one recording."""
    found = analyse(waveform, rate)
    return Clip(
        name=name,
        speaker=speaker,
        sentence=sentence,
        emotion=emotion,
        f0=found.f0,
        energy=found.energy,
        bands=found.bands,
        breath=found.breath,
        speech=found.speech,
        cepstra=_cepstra(found.mel),
        phones=tuple((float(end), str(label)) for end, label in phones),
    )


def _cepstra(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(T, 13) of log-mel (T, 80), by the orthonormal cosine transform, level first."""
    count = mel.shape[1]
    k = np.arange(CEPSTRA)[:, None]
    basis = np.cos(np.pi * k * (np.arange(count) + 0.5) / count) * np.sqrt(2 / count)
    return np.asarray(mel.astype(np.float64) @ basis.T, dtype=np.float32)


def read_emodb(data: Path) -> list[Clip]:
    """Every EmoDB clip of a folder with manifest.csv, emodb/ and emodb_phones.json."""
    phones = json.loads((data / "emodb_phones.json").read_text(encoding="utf-8"))
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "EmoDB"]
    clips = []
    for row in rows:
        sound = load_sound(data / row["path"])
        name = Path(row["path"]).stem
        clips.append(
            make_clip(
                sound.waveform,
                sound.sample_rate,
                name=name,
                speaker=row["speaker"],
                sentence=row["sentence_id"],
                emotion=NAMES[row["emotion"]],
                phones=phones.get(name, ()),
            )
        )
    return clips


def save_clips(path: Path, clips: Sequence[Clip]) -> None:
    """Write clips to one npz file, whole or not at all."""
    facts = [[c.name, c.speaker, c.sentence, c.emotion, list(c.phones)] for c in clips]
    arrays = {
        name: np.concatenate([getattr(clip, name) for clip in clips])
        for name in ("f0", "energy", "bands", "breath", "speech", "cepstra")
    }
    lengths = np.array([len(clip) for clip in clips])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh, Path(fresh).open("wb") as file:
        np.savez(file, lengths=lengths, facts=np.array(json.dumps(facts)), **arrays)


def load_clips(path: Path) -> list[Clip]:
    """Read what `save_clips` wrote."""
    with np.load(path, allow_pickle=False) as found:
        ends = np.cumsum(found["lengths"])[:-1]
        names = ("f0", "energy", "bands", "breath", "speech", "cepstra")
        columns = {name: np.split(found[name], ends) for name in names}
        facts = json.loads(str(found["facts"]))
    return [
        Clip(
            *labels[:4],
            **{name: rows[index] for name, rows in columns.items()},
            phones=tuple((float(end), str(label)) for end, label in labels[4]),
        )
        for index, labels in enumerate(facts)
    ]


# Differences -------------------------------------------------------------------------------------


def make_pair(source: Clip, target: Clip) -> Pair | None:
    """The change from one take to another; None where too little of them has a pitch in both."""
    tau = align(
        comparable(source.cepstra, source.speech),
        comparable(target.cepstra, target.speech),
        anchors(source.phones, target.phones),
    )
    near = np.clip(np.rint(tau).astype(np.intp), 0, len(target) - 1)
    values = np.zeros((len(source), len(TARGETS)))
    known = np.zeros(values.shape, dtype=bool)
    said = source.speech & target.speech[near]
    tone = source.voiced & target.voiced[near]
    if tone.sum() < SHORTEST:
        return None
    pitch = _between(target.semitones, target.voiced, tau) - source.semitones
    middle = float(np.median(pitch[tone]))
    sure = tone & (np.abs(pitch - middle) < OCTAVE)
    if sure.sum() < SHORTEST:
        return None
    frames = np.arange(len(source))
    values[:, SEMITONES] = np.interp(frames, frames[sure], pitch[sure])
    known[:, SEMITONES] = sure
    level = _at(target.energy, tau) - source.energy
    values[:, ENERGY] = np.where(said, level - level[said].mean(), 0.0)
    colour = _at(clean_bands(target), tau) - clean_bands(source)
    values[:, BAND] = np.where(said[:, None], colour, 0.0)
    noise = _between(target.breath, target.voiced, tau) - source.breath
    values[:, BREATH] = np.interp(frames, frames[tone], noise[tone])
    values = smooth(np.clip(values, -MOST_DB, MOST_DB), VALUE_FRAMES)
    known[:, ENERGY], known[:, BAND], known[:, BREATH] = said, said[:, None], tone
    first, last = _span(source)
    tau = _ends_in_speech(tau, source, target)
    slope = np.gradient(smooth(tau, STRETCH_FRAMES))
    values[:, STRETCH] = np.log(np.clip(slope, 0.2, 5.0))
    known[first:last, STRETCH] = True
    return Pair(source, target, values.astype(np.float32), known)


def loudness(clip: Clip) -> Floats:
    """(T,) amplitude of each frame against the loud ones, .05 to 1."""
    energy = clip.energy.astype(np.float64)
    return np.clip(10 ** ((energy - np.percentile(energy, 95)) / 20), 0.05, 1.0)


def clean_bands(clip: Clip) -> Floats:
    """Envelope (T, 24) dB with the recording's own noise taken out (Boll 1979), rows of mean 0.

    Quiet takes were recorded with more gain, whose noise would pass for a brighter voice. The noise
    is what each band has where nobody speaks; at most 15 dB are taken.
    """
    power = 10 ** (clip.bands.astype(np.float64) / 10)
    widths = np.gradient(BAND_CENTRES)
    level = 10 ** (clip.energy.astype(np.float64) / 10) / (power @ widths)
    power *= level[:, None]
    quiet = ~clip.speech
    if quiet.sum() < FEWEST_QUIET:  # then the quietest frames, which may hold some speech
        quiet = clip.energy <= np.sort(clip.energy)[min(FEWEST_QUIET, len(clip)) - 1]
    noise = np.median(power[quiet], axis=0)
    db = 10 * np.log10(np.maximum(power - noise, 10**-1.5 * power) + 1e-12)
    return np.asarray(db - db.mean(axis=1, keepdims=True))


def follows(source: Clip, target: Clip) -> Floats:
    """(24,) dB of each band that the target has more per dB of the SOURCE's level, voiced frames.

    From slopes within each take, since an alignment that is never exact flattens what is read
    along it; the target's levels are taken for as far apart as its own, times the source's.
    """
    (before, narrow), (after, wide) = _slopes(source), _slopes(target)
    return np.asarray(after * (wide / max(narrow, 1e-6)) - before)


def _slopes(clip: Clip) -> tuple[Floats, float]:
    """dB of each band (24,) per dB of level over voiced frames, and the level's spread there."""
    level = clip.energy.astype(np.float64)
    level = level - level[clip.speech].mean() if clip.speech.any() else level
    rows = clip.voiced & (level > -MOST_OFF_LEVEL)
    if rows.sum() < SHORTEST:
        return np.zeros(len(BAND_CENTRES)), 1.0
    x, bands = level[rows] - level[rows].mean(), clean_bands(clip)[rows]
    return np.asarray(x @ (bands - bands.mean(axis=0)) / max(x @ x, 1e-6)), float(x.std())


def _span(clip: Clip) -> tuple[int, int]:
    runs = phrases(clip.speech, HOP / RATE)
    return (runs[0][0], runs[-1][1]) if runs else (0, 0)


def _ends_in_speech(tau: Floats, source: Clip, target: Clip) -> Floats:
    """The path with its ends from speech to speech, going on at the source's own pace outside."""
    (first, last), (begin, end) = _span(source), _span(target)
    out = np.clip(tau, begin, max(begin, end - 1))
    out[:first] = out[first] - np.arange(first, 0, -1)
    out[last:] = out[last - 1] + np.arange(1, len(out) - last + 1)
    return out


def _at(rows: NDArray[np.float32], tau: Floats) -> Floats:
    low = np.clip(np.floor(tau).astype(np.intp), 0, len(rows) - 1)
    high = np.minimum(low + 1, len(rows) - 1)
    share = (tau - low).reshape(-1, *(1,) * (rows.ndim - 1))
    return np.asarray((1 - share) * rows[low] + share * rows[high], dtype=np.float64)


def _between(values: Floats | NDArray[np.float32], where: NDArray[np.bool_], tau: Floats) -> Floats:
    at = np.flatnonzero(where)
    return np.interp(tau, at, np.asarray(values, dtype=np.float64)[at])


# Sets --------------------------------------------------------------------------------------------


def make_pairs(clips: Sequence[Clip]) -> list[Pair]:
    """Every ordered pair of different takes of one person and sentence."""
    cells: dict[tuple[str, str], list[Clip]] = {}
    for clip in clips:
        cells.setdefault((clip.speaker, clip.sentence), []).append(clip)
    made = (make_pair(a, b) for cell in cells.values() for a in cell for b in cell if a is not b)
    return [pair for pair in made if pair is not None]


def save_pairs(path: Path, pairs: Sequence[Pair], clips: Sequence[Clip]) -> None:
    """Write what alignment found to one npz file; the clips stay in theirs."""
    index = {clip.name: k for k, clip in enumerate(clips)}
    with replacing(path) as fresh, Path(fresh).open("wb") as file:
        np.savez(
            file,
            source=np.array([index[pair.source.name] for pair in pairs]),
            target=np.array([index[pair.target.name] for pair in pairs]),
            values=np.concatenate([pair.values for pair in pairs]).astype(np.float16),
            known=np.packbits(np.concatenate([pair.known for pair in pairs]), axis=1),
        )


def load_pairs(path: Path, clips: Sequence[Clip]) -> list[Pair]:
    """Read what `save_pairs` wrote, given the same clips."""
    with np.load(path, allow_pickle=False) as found:
        sources = [clips[k] for k in found["source"]]
        ends = np.cumsum([len(clip) for clip in sources])[:-1]
        values = np.split(found["values"].astype(np.float32), ends)
        flags = np.unpackbits(found["known"], axis=1, count=len(TARGETS)).astype(bool)
        rows = zip(
            sources,
            [clips[k] for k in found["target"]],
            values,
            np.split(flags, ends),
            strict=True,
        )
        return [Pair(*row) for row in rows]


def fit_directions(pairs: Sequence[Pair], *, held_out: bool = False) -> VoiceDirections:
    """Directions from the neutral takes' pairs; with `held_out` those that training may not see."""
    found: dict[str, list[Difference]] = {}
    for pair in pairs:
        if pair.source.emotion != "neutral" or pair.target.emotion == "neutral":
            continue
        if pair.source.held_out == held_out:
            found.setdefault(pair.target.emotion, []).append(pair.difference())
    counts = ", ".join(f"{name} {len(rows)}" for name, rows in sorted(found.items()))
    about = (
        f"EmoDB (Burkhardt et al. 2005, CC0), differences to neutral takes without speakers "
        f"{', '.join(HELD_SPEAKERS)} and sentences {', '.join(HELD_SENTENCES)}: {counts}; counted "
        f"as intensity {cue_table()['scale']['emodb_intensity']}. Level, and the other emotions: "
        "voice_cues.json (" + "; ".join(cue_table()["sources"].values()) + ")."
    )
    return fit(found, BAND_CENTRES, about)


def clarity(pairs: Sequence[Pair], directions: VoiceDirections) -> dict[str, float]:
    """Clip name -> how strongly its emotion is played, as intensity; neutral clips are absent.

    The mean change from the neutral takes is projected on the emotion's own (after EmoSphere-TTS,
    Cho et al. 2024, where intensity is distance from neutral), each column in its spread over
    pairs. 1 is the mean of the emotion; the result is within CLARITY, times what EmoDB counts as.
    """
    anchor = float(cue_table()["scale"]["emodb_intensity"])
    own = [p for p in pairs if p.source.emotion == "neutral" and p.target.emotion != "neutral"]
    if not own:
        return {}
    means = np.array([_mean(pair) for pair in own])
    spread = np.maximum(means.std(axis=0), 1e-6)
    labels = np.array([pair.target.emotion for pair in own])
    found: dict[str, list[float]] = {}
    for pair, mean in zip(own, means, strict=True):
        axis = means[labels == pair.target.emotion].mean(axis=0) / spread
        ratio = float(mean / spread @ axis / max(axis @ axis, 1e-9))
        found.setdefault(pair.target.name, []).append(ratio)
    return {
        name: anchor * float(np.clip(np.mean(ratios), *CLARITY)) for name, ratios in found.items()
    }


def _mean(pair: Pair) -> Floats:
    """(28,) over the known frames, energy left out."""
    out = np.zeros(len(TARGETS))
    for column in range(len(TARGETS)):
        rows = pair.known[:, column]
        if column != ENERGY and rows.any():
            out[column] = pair.values[rows, column].mean()
    return out


def prepared(work: Path, data: Path | None = None) -> tuple[list[Clip], list[Pair]]:
    """Clips and pairs from the cache in `work`; made from `data` where they are not there yet."""
    clips_file, pairs_file = work / "clips.npz", work / "pairs.npz"
    if not clips_file.is_file():
        if data is None:
            msg = f"pairs: {clips_file} does not exist; give --data, a folder with EmoDB"
            raise FileNotFoundError(msg)
        save_clips(clips_file, read_emodb(data))
        pairs_file.unlink(missing_ok=True)
    clips = load_clips(clips_file)
    if not pairs_file.is_file():
        save_pairs(pairs_file, make_pairs(clips), clips)
    return clips, load_pairs(pairs_file, clips)


def summary(directions: VoiceDirections, names: Mapping[str, Floats] | None = None) -> str:
    """A table of the directions at intensity 1 in words: one line an emotion."""
    lines = [f"{'':12s} pitch  range  stretch  tilt  breath  level   (intensity 1)"]
    voiced = PARTS[:3]
    for index, name in enumerate(CORE):
        D = np.mean([directions.bank.vectors[part][index].numpy() for part in voiced], axis=0)
        tilt = tilt_of(D[BAND], directions.band_hz)
        lines.append(
            f"{name:12s} {D[SEMITONES]:+5.2f}  {1 + D[PITCH_RANGE]:5.2f}  "
            f"{np.exp(D[STRETCH]):6.2f}  {tilt:+5.1f}  {D[BREATH]:+5.1f}  {D[ENERGY]:+5.1f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Align EmoDB, fit the directions and write directions.safetensors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, help="folder with manifest.csv and emodb/")
    parser.add_argument("--work", type=Path, default=Path(".work/voice"), help="cache of pairs")
    parser.add_argument("--out", type=Path, default=DIRECTIONS)
    given = parser.parse_args(argv)
    clips, pairs = prepared(given.work, given.data)
    directions = fit_directions(pairs)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    directions.save(given.out)
    print(f"{len(clips)} clips, {len(pairs)} ordered pairs")
    print(summary(directions))
    print("R2 of valence, arousal, dominance:", round(directions.bank.r_squared["tokens"], 2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
