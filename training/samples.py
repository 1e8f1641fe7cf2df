"""Recipe of assets/samples: sentences spoken by nobody, for tests, `affect demo` and first tries.

    python -m training.samples          # needs espeak-ng; about ten seconds

speech.wav is the sample, storm.wav what the face in storm.toml says. espeak-ng says them. Rendered
like that it is harsh and nearly monotonous, and unlike any recording: both readers of voices
abstain. So it is edited as any voice here is (`pipelines.voice_render`): colour half way to that of
neutral speakers, more melody, a little wandering of pitch and level, breath; then a short room and
its noise. The critic then takes it for speech, and for neutral.

The same espeak-ng gives the same bytes; another release may speak differently.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.assets import ASSETS
from adapters.files import replacing
from adapters.voice_analysis import HOP, RATE, Singles, analyse
from adapters.voice_edit import VoiceEdit
from pipelines.manifest import update
from pipelines.media_sound import encode_sound
from pipelines.speech import ENGLISH, SPEAKER, speak
from pipelines.voice_render import render

TEXT = "The first train leaves at seven in the morning, and the last one comes back at ten."
"""Two phrases with nothing in them to be glad or sorry about."""
NAME = "speech.wav"
LINES = {
    NAME: TEXT,
    "storm.wav": "Listen. The wind has turned, and the boats are still out there.",
}
MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
"""DigitalSourceType of what rules made, without any training data."""

# dB of the 24 bands in voiced speech, each re their mean: nine neutral clips of five speakers
# (VCTK, CC BY 4.0; LJ Speech, public domain) as adapters.voice_analysis measures them.
NEUTRAL = (
    22.7, 23.1, 22.9, 22.1, 20.1, 15.4, 9.9, 7.1, 3.8, -0.2, -1.5, -1.6,
    -2.4, -3.0, -3.6, -5.5, -7.4, -8.7, -10.7, -13.6, -18.3, -24.9, -24.3, -21.5,
)  # fmt: skip
COLOUR = 0.5  # of the way there; all of it makes this voice dull, which is heard as boredom
MELODY = 0.8  # more of the distance from the middle pitch: 1.8 semitones become 3.1, as people have
WANDER = 0.25  # semitones
SWAY = 1.0  # dB
BREATH = 4.0  # dB of noise to harmonics: -7 becomes -1; people have -3 to -1
ROOM = 0.2  # of the direct sound's level, dying away by 1/e in 30 ms
HISS = -62.0  # dB full scale, falling as 1/f
SEED = 0


def speech(text: str = TEXT) -> tuple[Singles, int, str]:
    """A sample: float32 (samples,) with a peak of 0.5, its Hz, and the name of the voice."""
    plain, rate, name = speak(text, speech="espeak", speaker=SPEAKER, language=ENGLISH)
    rng = np.random.default_rng(SEED)
    analysis = analyse(plain, rate)
    said = analysis.voiced & analysis.speech
    pitch = 12 * np.log2(analysis.f0[said] / np.median(analysis.f0[said]))
    frames = len(analysis)
    height = np.interp(np.arange(frames), np.flatnonzero(said), pitch)
    colour = COLOUR * (np.array(NEUTRAL) - analysis.bands[said].mean(axis=0))
    edit = VoiceEdit.constant(
        frames,
        semitones=np.clip(MELODY * height + WANDER * wandering(frames, 6.0, rng), -6, 6),
        energy_db=SWAY * wandering(frames, 4.0, rng),
        bands=np.clip(colour - colour.mean(), -14, 14),
        breath=BREATH,
    )
    sound = in_a_room(render(plain, rate, analysis, edit, protect=0.0, seed=SEED), rate, rng)
    return (sound * (0.5 / np.abs(sound).max())).astype(np.float32), rate, name


def wandering(frames: int, hertz: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise (frames,) between 0.3 Hz and `hertz`, standard deviation 1."""
    f = np.fft.rfftfreq(frames, HOP / RATE)
    spectrum = np.fft.rfft(rng.standard_normal(frames)) * ((f > 0.3) & (f < hertz))
    noise = np.fft.irfft(spectrum, frames)
    return np.asarray(noise / noise.std())


def in_a_room(sound: Singles, rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A small room: noise that dies away behind the sound, and the hiss of a microphone."""
    t = np.arange(round(0.18 * rate)) / rate
    echo = rng.standard_normal(len(t)) * np.exp(-t / 0.03) * (t > 0.004)
    size = len(sound) + len(t)
    late = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echo, size), size)[: len(sound)]
    f = np.maximum(np.fft.rfftfreq(len(sound), 1 / rate), 50.0)
    hiss = np.fft.irfft(np.fft.rfft(rng.standard_normal(len(sound))) / np.sqrt(f), len(sound))
    wet = sound + late * (ROOM / np.sqrt(np.square(echo).sum()))
    return np.asarray(wet + hiss / hiss.std() * 10 ** (HISS / 20))


def main(arguments: list[str] | None = None) -> None:
    """Write the samples and their row in the manifest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--assets", type=Path, default=ASSETS)
    options = parser.parse_args(arguments)
    for name, text in LINES.items():
        sound, rate, voice = speech(text)
        records = {"parameters": f"{text}\nVoice: {voice}", "digital_source": MADE}
        with replacing(options.assets / "samples" / name) as path:
            path.write_bytes(encode_sound(sound, rate, records))
        print(f"{name}: {len(sound) / rate:.2f} s at {rate} Hz by {voice}")
    row = update(
        "samples",
        path="samples",
        licence="CC0-1.0",
        source=f"speech: by {voice}, whose output its GPL does not cover; nobody's voice; faces: "
        "drawn by a program of this project, nobody's likeness; storm.toml: written here",
        recipe="python -m training.samples; python -m training.draw_faces --out "
        "assets/samples/faces",
        trained_on="",
        assets=options.assets,
    )
    print(f"{row['bytes']} bytes")


if __name__ == "__main__":
    main()
