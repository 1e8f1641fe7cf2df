"""Text to neutral speech: the reading that a voice's emotion is then put into.

Two ways to speak. `espeak-ng` where it is installed: a formant synthesiser of some hundred
languages, run as a program with the text on its standard input. Or a transformers text-to-speech
model by hub name or folder: VITS (Kim et al. 2021; the MMS voices of Pratap et al. 2023 are of this
class) and SpeechT5 (Ao et al. 2022) with its HiFi-GAN. Safetensors only, no code from the hub.

It deliberately knows no emotion: `pipelines.voice` adds that. The same text, voice and seed give
the same samples; the name that is returned says what spoke, weights included.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
import subprocess
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_TEXT = 5000
"""Characters that are spoken at the most: some six minutes."""
PEAK = 0.5
"""Largest sample: 6 dB are left for what an emotion makes louder."""
EDGE = 0.1
"""Seconds of silence before and behind."""

ENGINE = "espeak-ng"
WORDS = 175
"""Words a minute of espeak-ng; at 160 and 150 our readers of voices hear more boredom."""
SPEAKER = "f2"
"""Voice of espeak-ng when none is named: of 18 variants the one that both our readers hear as
nearest to neutral speech, where its plain men's voice passes for angry with one of them."""
ENGLISH = "en-us"
"""What `en` means, for the same reason."""
_SECONDS = 120  # that espeak-ng may take; it needs one for five minutes of speech
_PAUSE = 0.3  # s between sentences that a model spoke one by one
_LONGEST = 300  # characters a model speaks at once: attention grows with the square
_CODE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4}")
_VOICE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_KINDS = ("vits", "speecht5")
_VECTOR = 512  # x-vectors of SpeechT5
_VOCODER = "microsoft/speecht5_hifigan"

Singles = NDArray[np.float32]


class SpeechError(ValueError):
    """Text that cannot be spoken, or nothing to speak with: one line that says what to do."""


def speak(
    text: str,
    *,
    speech: str = "auto",
    speaker: str = "",
    language: str = "en",
    seed: int = 0,
    offline: bool | None = None,
) -> tuple[Singles, int, str]:
    """Speak a text in a neutral voice.

    Args:
        text: up to 5,000 characters; control characters are left out.
        speech: "auto" or "espeak" for espeak-ng; or a hub name or folder of a VITS or SpeechT5
            model. The vocoder of a SpeechT5 folder lies in its subfolder `vocoder`, else
            microsoft/speecht5_hifigan is taken.
        speaker: espeak-ng: a voice variant such as f2 (also when none is named), m3 or Annie. VITS:
            the number of a speaker. SpeechT5: a .npy or .safetensors file of one vector of 512
            numbers; without it zeros.
        language: of espeak-ng, as en (en-us), de, pt-br; models speak the language of their own.
        seed: of what a model draws; espeak-ng draws nothing.
        offline: never ask the hub; None: as HF_HUB_OFFLINE says.

    Returns:
        Samples float32 (samples,) with a peak of 0.5, their sample rate in Hz, and the name of the
        voice with its version or the digest of its weights.

    Raises:
        SpeechError: nothing to speak, too long, no such voice or language, nothing to speak with.
    """
    words = cleaned(text)
    if speech in ("auto", "espeak", ENGINE):
        samples, rate, name = _espeak(words, speaker, language)
    else:
        samples, rate, name = _model(words, speech, speaker, seed, offline)
    peak = float(np.abs(samples).max(initial=0.0))
    if not np.isfinite(peak) or peak < 1e-6:
        msg = f"text: {name} made no sound of it; check the text and the language ({language})"
        raise SpeechError(msg)
    edge = np.zeros(round(EDGE * rate), np.float32)
    scaled = (samples * (PEAK / peak)).astype(np.float32)
    return np.concatenate([edge, scaled, edge]), rate, name


def cleaned(text: str) -> str:
    """The text on one line, without control and format characters.

    Raises:
        SpeechError: no letter or digit is in it, or it is too long.
    """
    # Format characters go but for the two joiners, which change letters of Persian and Hindi.
    kept = "".join(
        " " if c.isspace() else c
        for c in text
        if c.isspace() or c in "\u200c\u200d" or unicodedata.category(c)[0] != "C"
    )
    flat = " ".join(kept.split())
    if not any(c.isalnum() for c in flat):
        msg = f"text: nothing in it can be spoken, received {flat[:40]!r}; write a sentence"
        raise SpeechError(msg)
    if len(flat) > MAX_TEXT:
        msg = f"text: at most {MAX_TEXT} characters are spoken, received {len(flat)}; split it"
        raise SpeechError(msg)
    return flat


# --- espeak-ng


def espeak() -> str | None:
    """Path of the espeak-ng program, None where it is not installed."""
    return shutil.which(ENGINE)


def languages() -> tuple[str, ...]:
    """Language codes that can be spoken with espeak-ng; none where it is not installed."""
    program = espeak()
    return tuple(_languages(program)) if program else ()


def _espeak(text: str, speaker: str, language: str) -> tuple[Singles, int, str]:
    from pipelines.media_records import MediaError
    from pipelines.media_sound import decode_sound

    program = espeak()
    if program is None:
        msg = (
            "speech: espeak-ng is not installed; install it (`sudo apt-get install espeak-ng`, "
            "`brew install espeak-ng`), name a model (--speech facebook/mms-tts-eng) or give a "
            "recording (--audio)"
        )
        raise SpeechError(msg)
    code = language.strip().lower().replace("_", "-")
    known = _languages(program)
    if not _CODE.fullmatch(code) or code not in known:
        near = difflib.get_close_matches(code, known, n=4) or known
        short = [language for language in near if "-" not in language or len(near) < 5]
        msg = f"language: espeak-ng has no {language[:20]!r}; there are {', '.join(short)}"
        raise SpeechError(msg)
    voice = ENGLISH if code == "en" and ENGLISH in known else known[code]
    name = speaker.strip().removeprefix("+")
    variants = _variants(program)
    found = variants.get((name or SPEAKER).lower()) if _VOICE.fullmatch(name or SPEAKER) else None
    if found is not None:
        voice = f"{voice}+{found}"
    elif name:
        near = difflib.get_close_matches(name.lower(), variants, n=3) or ["f2", "m3", "annie"]
        msg = f"speaker: espeak-ng has no voice {name[:20]!r}; there are {', '.join(near)}"
        raise SpeechError(f"{msg} (`espeak-ng --voices=variant` lists all)")
    # "[[" would begin phoneme codes
    told = text.replace("[[", "[ [")
    options = ("-v", voice, "-s", str(WORDS), "-b", "1", "-z", "--stdin", "--stdout")
    try:
        sound = decode_sound(_said(program, *options, text=told), "espeak-ng")
    except MediaError as error:
        msg = f"text: espeak-ng made no sound of it in {language[:20]}; check text and language"
        raise SpeechError(msg) from error
    return sound.waveform.mean(axis=0), sound.sample_rate, f"{_version(program)} {voice}"


def _said(program: str, *options: str, text: str = "") -> bytes:
    """What espeak-ng writes to its standard output."""
    try:
        done = subprocess.run(  # noqa: S603 - a list of checked words, no shell
            [program, *options], input=text.encode(), capture_output=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"speech: {program} does not answer ({type(error).__name__}); install it again"
        raise SpeechError(msg) from error
    if done.returncode:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:120]
        msg = f"speech: espeak-ng failed ({said or done.returncode}); install it again"
        raise SpeechError(msg)
    return done.stdout


@lru_cache(maxsize=4)
def _languages(program: str) -> dict[str, str]:
    """Language codes in small letters -> as espeak-ng writes them."""
    rows = _said(program, "--voices").decode("utf-8", "replace").splitlines()[1:]
    codes = [row.split()[1] for row in rows if len(row.split()) > 1]
    # en, fr and so on stand for their first variety
    whole = {code.split("-")[0]: code.split("-")[0] for code in codes}
    return dict(sorted((whole | {code.lower(): code for code in codes}).items()))


@lru_cache(maxsize=4)
def _variants(program: str) -> dict[str, str]:
    """Names of voice variants in small letters -> the names of their files."""
    rows = _said(program, "--voices=variant").decode("utf-8", "replace").splitlines()[1:]
    files = [row.split()[-1].rsplit("/", 1)[-1] for row in rows if "!v/" in row]
    return {file.lower(): file for file in files}


@lru_cache(maxsize=4)
def _version(program: str) -> str:
    said = _said(program, "--version").decode("utf-8", "replace")
    number = re.search(r"\d+\.\d+[\w.+-]*", said)
    return f"{ENGINE} {number[0] if number else ''}".strip()


# --- transformers


def _model(
    text: str, source: str, speaker: str, seed: int, offline: bool | None
) -> tuple[Singles, int, str]:
    import torch

    from pipelines.weights import is_offline

    # These models draw from torch's global generator, loading does, too: it is put back as it was.
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model, tokenizer, vocoder, rate, name = _loaded(source.strip(), is_offline(offline))
        voice: Any
        if vocoder is None:
            voice = _speaker_number(speaker, int(model.config.num_speakers))
            name = name if voice is None else f"{name} speaker {voice}"
        else:
            vector = _speaker_vector(speaker, int(model.config.speaker_embedding_dim))
            voice = torch.from_numpy(vector)
            name = f"{name} speaker {hashlib.sha256(vector.tobytes()).hexdigest()[:8]}"
        torch.manual_seed(seed)
        parts: list[Singles] = []
        for sentence in sentences(text):
            tokens = _tokens(tokenizer, sentence, name)
            if tokens is None:
                continue
            if vocoder is None:
                sound = model(**tokens, speaker_id=voice).waveform[0]
            else:
                sound = model.generate_speech(tokens["input_ids"], voice, vocoder=vocoder)
            parts.append(sound.float().numpy().astype(np.float32))
            parts.append(np.zeros(round(_PAUSE * rate), np.float32))
    if not parts:
        more = "the package uroman" if getattr(tokenizer, "is_uroman", False) else "another voice"
        msg = f"text: {name} knows no letter of {text[:40]!r}; that language needs {more}"
        raise SpeechError(msg)
    return np.concatenate(parts[:-1]), rate, name


def sentences(text: str) -> list[str]:
    """Cut a text behind the ends of sentences, and long ones behind commas or between words."""
    found: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+|(?<=[。！？।])\s*", text):
        rest = sentence
        while len(rest) > _LONGEST:
            part = rest[:_LONGEST]
            at = max(part.rfind(", "), part.rfind("; "), part.rfind("، ")) + 1
            at = at if at > _LONGEST // 3 else part.rfind(" ")
            at = at if at > 0 else _LONGEST
            found.append(rest[:at].strip())
            rest = rest[at:].strip()
        found.append(rest)
    return [part for part in found if any(c.isalnum() for c in part)]


def _tokens(tokenizer: Any, sentence: str, name: str) -> dict[str, Any] | None:
    """Token tensors (1, n); None when the tokenizer knows nothing of the sentence."""
    try:
        tokens = dict(tokenizer(sentence, return_tensors="pt"))
    except ImportError as error:  # VITS voices that read phonemes
        reason = " ".join(str(error).split())[:100]
        msg = f"speech: {name} needs a package that is not here ({reason}); take an MMS voice"
        raise SpeechError(msg) from error
    ids = tokens["input_ids"][0].tolist()
    blanks = getattr(tokenizer, "add_blank", False)  # VITS: before, between and behind the letters
    letters = set(ids[1::2] if blanks else ids) - {tokenizer.unk_token_id, tokenizer.eos_token_id}
    return tokens if letters else None


@lru_cache(maxsize=1)
def _loaded(source: str, local: bool) -> tuple[Any, Any, Any, int, str]:
    """Model, tokenizer, vocoder or None, sample rate and name with digest; the last one is kept."""
    import torch
    from transformers import (
        AutoConfig,
        AutoTokenizer,
        SpeechT5ForTextToSpeech,
        SpeechT5HifiGan,
        VitsModel,
    )

    folder = _folder(source)
    place = source if folder is None else str(folder)
    here = folder is not None
    options: dict[str, Any] = {"local_files_only": local or here or _cached(source)}
    weights = {**options, "use_safetensors": True, "dtype": torch.float32}
    vocoder = None
    try:
        kind = AutoConfig.from_pretrained(place, **options).model_type
        if kind not in _KINDS:
            msg = f"speech: {source} is of kind {kind}; VITS (MMS) and SpeechT5 models can speak"
            raise SpeechError(f"{msg}, for example facebook/mms-tts-eng")
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        if kind == "vits":
            model = _whole(VitsModel, place, weights)
            rate = int(model.config.sampling_rate)
        else:
            model = _whole(SpeechT5ForTextToSpeech, place, weights)
            own = None if folder is None else _folder(str(folder / "vocoder"))
            if own is None:
                place = _VOCODER
                weights["local_files_only"] = local or _cached(_VOCODER)
            vocoder = _whole(SpeechT5HifiGan, place if own is None else str(own), weights)
            rate = int(vocoder.config.sampling_rate)
    except SpeechError:
        raise
    except Exception as error:  # damaged files make loaders raise almost anything
        raise SpeechError(_why_not(place, folder is not None, local, error)) from error
    name = source if folder is None else folder.resolve().name
    return model, tokenizer, vocoder, rate, f"{name} {_digest(model, vocoder)}"


def _folder(source: str) -> Path | None:
    try:
        path = Path(source).expanduser()
        return path if source and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no name a file could have
        return None


def _whole(kind: Any, source: str, options: dict[str, Any]) -> Any:
    """A model whose every weight was in the file: what is missing would be random."""
    model, found = kind.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        msg = f"the weights lack {missing[0]} and {len(missing) - 1} more"
        raise OSError(msg)
    return model.eval()


def _why_not(source: str, here: bool, local: bool, error: Exception) -> str:
    """One line for a failed load of a folder (`here`) or hub name: what is missing."""
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    reason = " ".join(reason.split())[:140]
    if source == _VOCODER:
        return (
            f"speech: SpeechT5 needs the vocoder {_VOCODER}, which is not here; run `hf download "
            f"{_VOCODER}` where there is a network, or put one into the folder's `vocoder`"
        )
    if here:
        return (
            f"speech: cannot load {source[-80:]} ({reason}); it needs config.json, a tokenizer and "
            "safetensors weights, as save_pretrained writes them"
        )
    if source.startswith((".", "~", "/")) or source.count("/") > 1:
        return f"speech: no folder {source[-80:]}; give one that is there, or a hub name"
    if local:
        return (
            f"speech: {source[:80]!r} is not on this machine and downloads are off; run "
            f"`hf download {source[:80]}` where there is a network, or give a folder"
        )
    return (
        f"speech: cannot load {source[:80]!r} ({reason}); give `espeak`, a folder, or the hub name "
        "of a VITS or SpeechT5 model with safetensors weights"
    )


def _cached(repository: str) -> bool:
    """Whether the configuration of a hub repository lies in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(repository, "config.json"), str)
    except ValueError:  # no name that the hub could have
        return False


def _digest(*models: Any) -> str:
    """16 hex digits of all weights, names and values."""
    found = hashlib.sha256()
    for model in models:
        if model is not None:
            for name, tensor in sorted(model.state_dict().items()):
                found.update(name.encode())
                found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _speaker_number(speaker: str, count: int) -> int | None:
    text = speaker.strip()
    if not text:
        return None if count < 2 else 0
    if not text.isascii() or not text.isdigit() or not int(text) < max(count, 1):
        most = f"0 to {count - 1}" if count > 1 else "this model has one voice, so leave it out"
        msg = f"speaker: {most}, received {text[:20]!r}"
        raise SpeechError(msg)
    return int(text) if count > 1 else None


def _speaker_vector(speaker: str, size: int) -> Singles:
    """float32 (1, size) of a file; zeros without one.

    Raises:
        SpeechError: no such file, another format, more than one vector, or another size.
    """
    if not speaker.strip():
        return np.zeros((1, size), np.float32)
    path = Path(speaker.strip()).expanduser()
    wanted = f"speaker: a .npy or .safetensors file of one vector of {size} numbers"
    try:
        if path.stat().st_size > 2**20:
            msg = f"{wanted}, received {path.stat().st_size >> 20} MB; give another"
            raise SpeechError(msg)
        if path.suffix.lower() == ".npy":
            vector = np.load(path, allow_pickle=False)
        elif path.suffix.lower() == ".safetensors":
            from safetensors.numpy import load_file

            vectors = load_file(path)
            vector = next(iter(vectors.values())) if len(vectors) == 1 else np.zeros(0)
        else:
            msg = f"{wanted}, received {path.name[:40]!r}; give such a file"
            raise SpeechError(msg)
        flat = np.asarray(vector, dtype=np.float32).reshape(1, -1)
    except SpeechError:
        raise
    except Exception as error:
        msg = f"{wanted}, {path.name[:40]!r} cannot be read as that; check the path"
        raise SpeechError(msg) from error
    if flat.shape[1] != size or not np.isfinite(flat).all():
        msg = f"{wanted}, received {flat.shape[1]} in {path.name[:40]!r}; give another"
        raise SpeechError(msg)
    return flat
