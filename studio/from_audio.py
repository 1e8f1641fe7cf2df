"""`--emotion from-audio`: the speech's own emotion over time, as the critic of voices hears it.

What is heard becomes an ordinary timeline before the request is made, so that the request, the file
and a remake say what was asked and need no second listening. The critic learned strong acting and
knows seven classes; what it hears is rounded, and what it hears faintly is left out. It says how a
voice sounds, never what a person feels. This file deliberately does not know faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from studio.console import note
from studio.notice import VOICE_NOTICE, is_ours

if TYPE_CHECKING:
    from adapters.emotion import EmotionTimeline

Floats = NDArray[np.float64]

WORD = "from-audio"
"""What stands in place of an emotion."""
WINDOW = 3.0
"""Seconds that are heard at once. In the usual 1.5 s the critic hears the words as much as the mood
(a sentence that is known to be neutral begins with .3 of disgust). The recording as a whole, which
it is surest of, has a part in every state, the larger the fewer such windows there are."""
CLOSEST = 0.8
"""Seconds between keys at least: a mood does not turn with every word."""
MOST_KEYS = 60
TOLERANCE = 0.08
"""Intensity that a key must add to what its neighbours draw already."""
GRAIN = 0.05
"""Intensities are rounded to this: the critic is not surer."""
MOST_NAMES = 3
"""Emotions that one state mixes at most."""


def is_from_audio(text: str) -> bool:
    """Whether somebody asked for the speech's own emotion."""
    return text.strip().lower().replace("_", "-").replace(" ", "-") == WORD


def emotion_of_speech(audio: Path | None) -> EmotionTimeline:
    """The emotion of a recording over time; told on stderr.

    Raises:
        EmotionError: there is no recording, or nobody speaks in it.
        MediaError, VoiceError: it cannot be read as speech.
    """
    from adapters.emotion import EmotionError

    if audio is None:
        msg = f"emotion: {WORD} hears a recording, and there is none; give --audio FILE"
        raise EmotionError(msg)
    if not is_ours(audio) and not _is_shipped(audio):
        note(VOICE_NOTICE.replace("this file", audio.name, 1))
    times, states = heard(audio)
    timeline = timeline_of(times, states)
    note(f"emotion: {audio.name} is heard as {timeline.text}")
    return timeline


def heard(audio: Path) -> tuple[Floats, Floats]:
    """Times (t,) in seconds and intensities (t, 12) that the critic hears where somebody speaks.

    Against the person's own neutral voice where the file is known to be that or says which it was.
    """
    from adapters.emotion import EmotionError
    from adapters.voice_analysis import analyse
    from adapters.voice_critic import load_voice_critic
    from pipelines.media_sound import load_sound

    sound = load_sound(audio)
    analysis = analyse(sound.waveform, sound.sample_rate)
    if not analysis.speech.any():
        msg = f"emotion: nobody speaks in {audio.name}, so {WORD} hears nothing; write the emotion"
        raise EmotionError(msg)
    critic: Any = load_voice_critic("critic-voice")
    neutral = analysis if _is_shipped(audio) else _neutral_of(audio)
    reference = None if neutral is None else critic.reference([neutral])
    step = max(0.25, analysis.seconds / 2000)
    whole = np.array(critic.read([analysis], reference)[0].intensities)
    times, readings = critic.read_over_time(analysis, reference, WINDOW, step)
    said = np.array([reading.probabilities[0] < 1 for reading in readings], dtype=bool)
    states = np.array([reading.intensities for reading in readings], dtype=np.float64)
    if not said.any():  # a word or two: too little for a window
        return np.zeros(1), whole[None]
    share = WINDOW / max(WINDOW, analysis.seconds)
    mixed = share * whole + (1 - share) * states[said]
    return np.asarray(times[said], dtype=np.float64), np.asarray(mixed)


def timeline_of(times: Floats, states: Floats) -> EmotionTimeline:
    """A timeline of few keys through intensities (t, 12) at times (t,), rounded for people."""
    from adapters.emotion import Emotion, EmotionTimeline
    from adapters.reading import FAINT

    smooth = _smoothed(times, np.asarray(states, dtype=np.float64))
    rows = np.stack([_plain(row, FAINT) for row in smooth])
    kept = _keys(times, rows)
    if len(kept) == 1 or bool((rows[kept] == rows[kept[0]]).all()):
        return EmotionTimeline.constant(Emotion(tuple(rows[kept[0]].tolist())))
    first = 0.0  # it holds before the first word as well
    keys = [(first, Emotion(tuple(rows[kept[0]].tolist())))]
    for k in kept[1:]:
        if times[k] >= keys[-1][0] + CLOSEST / 2:
            keys.append((round(float(times[k]), 1), Emotion(tuple(rows[k].tolist()))))
    return EmotionTimeline(tuple(keys))


def _smoothed(times: Floats, states: Floats) -> Floats:
    """Means over CLOSEST seconds around each time."""
    near = np.abs(times[:, None] - times[None, :]) <= CLOSEST / 2 + 1e-9
    weights = near / near.sum(axis=1, keepdims=True)
    return np.asarray(weights @ states)


def _plain(row: Floats, faint: float) -> Floats:
    """The strongest few intensities, rounded; nothing where all are faint; at most 1 together."""
    kept = np.zeros_like(row)
    for k in np.argsort(-row)[:MOST_NAMES]:
        if row[k] >= faint:
            kept[k] = row[k]
    kept /= max(1.0, float(kept.sum()))
    return np.asarray(np.floor(kept / GRAIN + 1e-9) * GRAIN).round(2)


def _keys(times: Floats, rows: Floats) -> list[int]:
    """Places of the keys: ends first, then where straight lines miss by most (Douglas-Peucker)."""
    kept = [0, len(rows) - 1] if len(rows) > 1 else [0]
    while len(kept) < MOST_KEYS:
        drawn = np.stack([np.interp(times, times[kept], c) for c in rows[kept].T], axis=1)
        miss = np.abs(rows - drawn).max(axis=1)
        miss[_near(times, kept)] = 0.0
        worst = int(miss.argmax())
        if miss[worst] <= TOLERANCE:
            break
        kept = sorted([*kept, worst])
    return kept


def _near(times: Floats, kept: Sequence[int]) -> NDArray[np.bool_]:
    """Which times are closer to a key than CLOSEST."""
    away = np.abs(times[:, None] - times[list(kept)][None, :]).min(axis=1)
    return np.asarray(away < CLOSEST)


def _is_shipped(audio: Path) -> bool:
    """Whether this is the sample of the project: spoken neutrally, by nobody."""
    import hashlib

    from pipelines.voice_take import shipped_digests

    with audio.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in shipped_digests()


def _neutral_of(audio: Path) -> Any:
    """The analysed neutral voice of a take of ours, None of any other recording."""
    from contextlib import suppress

    from adapters.voice_analysis import analyse
    from pipelines.media_sound import load_sound
    from pipelines.take import Take
    from studio.source import neutral_of

    with suppress(ValueError):  # from elsewhere
        neutral = neutral_of(Take.read(audio))
        if neutral is not None:
            sound = load_sound(neutral)
            return analyse(sound.waveform, sound.sample_rate)
    return None
