"""`affect score FILE`: what both readers read in a picture or film or hear in music and speech.

The readers were made to rate generated media. A picture or sound without this studio's mark, or one
made from a photo, may be of a real person, and inferring a person's emotions is regulated: such a
file needs `--real-media`, which prints the notice. Notes are nobody's face or voice: any MIDI file
may be scored. Speech and music are told apart by what a file says about itself; a sound from
elsewhere is taken for speech unless `--modality music` says otherwise. People differ more than
their moods do, so speech is best read against neutral speech of the same person. A film is taken
for a face, unless a video model made it here or `--modality video` says that its pictures are to be
read: the critic reads its curves, those beside a film of ours or else those that its mesh
moves by, and the reader the mesh, against the photo it was made from or else the face at rest. A
score says how a reader reads the work, never what anyone feels. One file at a time, nothing is
stored.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from studio.console import note, result_json, table_console
from studio.notice import FILM_NOTICE, NOTICE, SOUND_NOTICE, VOICE_NOTICE, is_ours
from studio.run import quiet_libraries
from studio.source import is_picture_of_film

if TYPE_CHECKING:
    from adapters.piece import Piece
    from adapters.reading import Reading
    from adapters.voice_analysis import Analysis
    from pipelines.take import Take

READERS = ("critic-image", "reader-image")

PICTURED = ("video", "film")
"""Films that were made here of which the pictures are read, not a face."""


def app() -> typer.Typer:
    """The verb `score`."""
    verb = typer.Typer(add_completion=False)
    verb.command()(score)
    return verb


def score(
    file: Annotated[
        Path,
        typer.Argument(
            help="A picture (PNG, JPEG, WEBP), music (MID), a sound (WAV, FLAC, MP3), a film (MP4)."
        ),
    ],
    real_media: Annotated[
        bool,
        typer.Option("--real-media", help="Score a file that was not made here from words alone."),
    ] = False,
    modality: Annotated[
        Literal["voice", "music", "video"] | None,
        typer.Option(
            "--modality",
            help="What a sound from elsewhere is, speech unless told; or of a film: video, to read "
            "its pictures and no face.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Neutral speech of the same person, to read against."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Read the emotion of FILE with the critic and with the independent reader.

    The readers were made for synthetic media. Using emotion recognition on people obliges you
    to tell them (EU AI Act, Art. 50(3)); at work and in education it is forbidden (Art. 5(1)(f)).
    """
    from adapters.emotion import CORE

    kind = kind_of_file(file)
    if kind == "films" and (modality == "video" or _sound_says(file) in PICTURED):
        kind = "video"
    elif kind == "sound" and modality != "video":
        kind = modality or _sound_says(file) or "voice"
    elif modality is not None:
        msg = f"modality: {file} is a file of {kind}, and says itself what it is; leave it out"
        raise ValueError(msg)
    if reference is not None and kind != "voice":
        msg = f"reference: speech is read against speech, {file} is no speech; leave it out"
        raise ValueError(msg)
    if kind == "voice":
        readings, more = _of_voice(file, real_media, reference)
    else:
        read = {
            "notes": _of_notes, "music": _of_sound, "pictures": _of_picture, "films": _of_film,
            "video": _of_video,
        }[kind]  # fmt: skip
        readings, more = read(file, real_media)
    gap = {}
    if len(readings) == 2:
        one, other = (reading.intensities for reading in readings.values())
        gap = {name: round(abs(one[k] - other[k]), 4) for k, name in enumerate(CORE)}
    for name, reading in readings.items():
        if reading.abstains:
            note(f"{name}: this is unlike what it was trained on, its reading means little")
    if as_json:
        shown = {name: reading.to_json() for name, reading in readings.items()}
        result_json({"path": str(file), "reading": shown, "gap": gap, **more})
    else:
        _print_table(readings, gap)
    return 0


def kind_of_file(file: Path) -> str:
    """ "notes", "sound", "films" or "pictures", by the first bytes, else by the name."""
    from pipelines.media_midi import is_midi
    from pipelines.media_sound import kind_of
    from pipelines.media_video_records import is_mp4

    head = b""
    with suppress(OSError, ValueError):  # told by the decoder of pictures
        if file.is_file():
            with file.open("rb") as opened:
                head = opened.read(16)
    if is_mp4(head):
        return "films"
    if is_midi(head) or kind_of(head):
        return "notes" if is_midi(head) else "sound"
    named = {
        ".mid": "notes", ".midi": "notes", ".wav": "sound", ".flac": "sound", ".mp3": "sound",
        ".mp4": "films",
    }  # fmt: skip
    return named.get(file.suffix.lower(), "pictures")  # its decoder says what is wrong


def _of_picture(file: Path, real_media: bool) -> tuple[dict[str, Reading], dict[str, Any]]:
    from pipelines.media import load_image
    from pipelines.take import Take

    image = load_image(file)
    take: Take | None = None
    with suppress(ValueError):  # a picture from elsewhere carries no request
        take = Take.read(file)
    modality = take.request.modality if take is not None else ""
    still = take is not None and modality == "portrait" and not is_picture_of_film(take)
    if modality in BESIDE and not still:
        what, beside = BESIDE[modality]
        msg = f"score: {file} is a picture of {what}; score the {beside} beside it"
        raise ValueError(msg)
    if take is not None and still:
        return _of_still(file, real_media, take)
    ours = _allowed(file, real_media, NOTICE, "show a real person")
    quiet_libraries(offline=True)
    from adapters.critic import load_critic

    return {name: load_critic(name).read([image])[0] for name in READERS}, {"made_here": ours}


BESIDE = {
    "music": ("notes", ".mid or .wav"),
    "voice": ("a voice", "sound"),
    "portrait": ("a film", ".mp4"),
    "video": ("a film", ".mp4"),
}
"""Modality -> what a picture beside a take shows, and the file that is scored instead."""


def _of_film(file: Path, real_media: bool) -> tuple[dict[str, Reading], dict[str, Any]]:
    """The critic reads the curves of the face, the reader its mesh, frame by frame."""
    from studio.score_face import read_film

    ours = _allowed(file, real_media, FILM_NOTICE, "show a real person")
    quiet_libraries(offline=True)
    readings, more = read_film(file)
    return readings, {"made_here": ours, **more}


def _of_video(file: Path, real_media: bool) -> tuple[dict[str, Reading], dict[str, Any]]:
    """Both readers of pictures, frame by frame."""
    from studio.score_video import read_frames

    ours = _allowed(file, real_media, NOTICE, "show a real person")
    quiet_libraries(offline=True)
    readings, more = read_frames(file)
    return readings, {"made_here": ours, **more}


def _of_still(
    file: Path, real_media: bool, take: Take
) -> tuple[dict[str, Reading], dict[str, Any]]:
    """The same of one retouched photo."""
    from studio.score_face import read_still

    ours = _allowed(file, real_media, FILM_NOTICE, "show a real person")
    quiet_libraries(offline=True)
    readings, more = read_still(file, take)
    return readings, {"made_here": ours, **more}


def _of_notes(file: Path, real_media: bool) -> tuple[dict[str, Reading], dict[str, Any]]:
    """The critic reads the notes, the reader hears them on our piano."""
    from pipelines.media_midi import load_midi
    from pipelines.piano import render

    told: list[str] = []
    piece = load_midi(file, told)
    for text in told:
        note(f"{file.name}: {text}")
    critic, reader = _music_readers()
    readings = {critic.name: critic.read([piece])[0], reader.name: reader.read([render(piece)])[0]}
    return readings, {"made_here": is_ours(file), "attributes": _attributes(piece)}


def _of_sound(file: Path, real_media: bool) -> tuple[dict[str, Reading], dict[str, Any]]:
    """The reader hears it; the critic reads notes, so it needs those that lie beside our sounds."""
    from pipelines.media_midi import load_midi
    from pipelines.media_sound import load_sound
    from pipelines.piano import SAMPLE_RATE
    from pipelines.take import Take

    sound = load_sound(file, SAMPLE_RATE)
    ours = _allowed(file, real_media, SOUND_NOTICE, "be a real voice")
    critic, reader = _music_readers()
    more: dict[str, Any] = {"made_here": ours}
    readings = {}
    notes = file.with_suffix(".mid")
    with suppress(ValueError):  # no notes beside it, or those of another take
        if Take.read(notes).request == Take.read(file).request:
            piece = load_midi(notes)
            readings[critic.name] = critic.read([piece])[0]
            more["attributes"] = _attributes(piece)
    readings[reader.name] = reader.read([sound.waveform])[0]
    return readings, more


def _sound_says(file: Path) -> str:
    """The modality of a sound or film that was made here, "" of any other."""
    from pipelines.take import Take

    with suppress(ValueError):
        return Take.read(file).request.modality
    return ""


def _of_voice(
    file: Path, real_media: bool, given: Path | None
) -> tuple[dict[str, Reading], dict[str, Any]]:
    """Both readers hear it, against the same person's neutral speech where there is some."""
    from pipelines.media_sound import load_sound
    from pipelines.take import Take
    from studio.source import neutral_of

    sound = load_sound(file)
    ours = _allowed(file, real_media, VOICE_NOTICE, "be a real voice")
    neutral = given
    if given is not None:
        _allowed(given, real_media, VOICE_NOTICE if ours else "", "be a real voice")
    with suppress(ValueError):  # from elsewhere
        neutral = neutral or neutral_of(Take.read(file))
    quiet_libraries(offline=True)
    from adapters.voice_analysis import analyse
    from adapters.voice_critic import load_voice_critic
    from adapters.voice_cues import cue_table, cues
    from adapters.voice_features import hear

    critic: Any = load_voice_critic("critic-voice")
    reader: Any = load_voice_critic("reader-voice")
    heard = analyse(sound.waveform, sound.sample_rate)
    if not heard.speech.any():
        note(f"{file.name}: nobody speaks in it")
    more: dict[str, Any] = {"made_here": ours, "reference": None}
    against: list[Any] = [None, None]
    if neutral is None:
        note(
            f"{file.name}: read alone; neutral speech of this person (--reference FILE) tells more"
        )
        more["cues"] = {name: _figure(value) for name, value in cues(heard).items()}
    else:
        other = load_sound(neutral)
        known = analyse(other.waveform, other.sample_rate)
        voice = hear(other.waveform, other.sample_rate)
        against = [critic.reference([known]), reader.reference([voice])]
        more |= {"reference": str(neutral), "speaker_similarity": _similarity(known, heard)}
        note(f"{file.name}: read against {neutral.name}, neutral speech of this person")
        more["cues"] = [
            {key: x if isinstance(x, str) else _figure(x) for key, x in row.items()}
            for row in cue_table(known, heard)
        ]
    own = hear(sound.waveform, sound.sample_rate)
    readings = {
        critic.name: critic.read([heard], against[0])[0],
        reader.name: reader.read([own], against[1])[0],
    }
    return readings, more


def _similarity(one: Analysis, other: Analysis) -> float | None:
    from adapters.voice_analysis import VoiceError
    from adapters.voice_speaker import speaker_similarity

    with suppress(VoiceError):
        return round(speaker_similarity(one, other), 4)
    return None


def _figure(value: float) -> float | None:
    from math import isfinite

    return round(value, 4) if isfinite(value) else None


def _allowed(file: Path, real_media: bool, notice: str, danger: str) -> bool:
    """Whether the file is ours; one of somebody else needs the flag and is told the notice."""
    if is_ours(file) or _is_shipped(file):
        return True
    if not real_media:
        msg = (
            f"score: {file} is not marked as made here from words alone, so it may {danger}; "
            "read `affect score --help`, then add --real-media if you may score it"
        )
        raise ValueError(msg)
    if notice:
        note(notice)
    return False


def _is_shipped(file: Path) -> bool:
    """Whether the file is one of the samples of this project."""
    import hashlib

    from studio.consent import is_nobodys

    with file.open("rb") as opened:
        return is_nobodys(file, hashlib.file_digest(opened, "sha256").hexdigest())


def _music_readers() -> tuple[Any, Any]:
    from adapters.music_critic import load_music_critic

    return load_music_critic("critic-music"), load_music_critic("reader-music")


def _attributes(piece: Piece) -> dict[str, float | None]:
    from adapters.music_attributes import measure

    return {name: _figure(value) for name, value in measure(piece).items()}


def _print_table(readings: dict[str, Reading], gap: dict[str, float]) -> None:
    """Probability and intensity by both readers, and how far apart their intensities are."""
    from rich.table import Table

    from adapters.emotion import CORE

    table = Table(box=None, pad_edge=False)
    table.add_column("emotion")
    for name in readings:
        table.add_column(f"{name}: p", justify="right")
        table.add_column("intensity", justify="right")
    if gap:
        table.add_column("gap", justify="right")
    neutral = (cell for r in readings.values() for cell in (f"{r.probabilities[0]:.2f}", ""))
    table.add_row("neutral", *neutral)
    for k, emotion in enumerate(CORE):
        cells = (
            cell
            for r in readings.values()
            for cell in (f"{r.probabilities[k + 1]:.2f}", f"{r.intensities[k]:.2f}")
        )
        table.add_row(emotion, *cells, *([f"{gap[emotion]:.2f}"] if gap else []))
    for axis, label in enumerate(("valence", "arousal", "dominance")):
        cells = (
            cell
            for r in readings.values()
            for cell in (
                f"{r.vad_mean[axis]:+.2f}",
                f"± {max(r.vad_variance[axis], 0.0) ** 0.5:.2f}",
            )
        )
        table.add_row(label, *cells)
    domain = (cell for r in readings.values() for cell in (f"{r.in_domain:.2f}", ""))
    table.add_row("in domain", *domain)
    table_console().print(table)
