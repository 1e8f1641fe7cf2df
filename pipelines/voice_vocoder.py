"""A HiFi-GAN vocoder of transformers: mel spectrograms of any length to sound, without seams.

HiFi-GAN (Kong et al. 2020) in the form that SpeechT5 brings (80 log10 mels, 16 kHz, a hop of 256
samples), whose spectrogram `adapters.voice_analysis` computes. Only safetensors are read. It
deliberately does not know where a spectrogram comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import SpeechT5HifiGan

from adapters.voice_analysis import HOP, MELS, RATE
from adapters.weight_files import first_danger
from pipelines.voice_model import VoiceModelError

CHUNK = 512  # frames the vocoder makes at a time: 8 s


def load_vocoder(
    name: str | Path, *, revision: str | None = None, offline: bool | None = None
) -> SpeechT5HifiGan:
    """A HiFi-GAN vocoder of transformers by hub name or folder, from safetensors.

    Raises:
        VoiceModelError: one line: not there, no vocoder, or of another kind of mel.
    """
    if Path(name).is_dir() and (why := first_danger(Path(name))):
        msg = f"vocoder: {why}; save it as safetensors (save_pretrained) without that file"
        raise VoiceModelError(msg)
    given: dict[str, Any] = {"revision": revision} if revision else {}
    if offline:
        given["local_files_only"] = True
    try:
        vocoder, found = SpeechT5HifiGan.from_pretrained(
            str(name), use_safetensors=True, output_loading_info=True, **given
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        lines = str(error).strip().splitlines() or ["no reason"]
        msg = f"vocoder: no safetensors of {name} to be had ({lines[0][:160]}); "
        msg += "give a SpeechT5HifiGan such as microsoft/speecht5_hifigan, or a folder of one"
        raise VoiceModelError(msg) from error
    if found["missing_keys"]:
        count, first = len(found["missing_keys"]), sorted(found["missing_keys"])[0]
        msg = f"vocoder: {name} lacks {count} weights of a SpeechT5HifiGan, the first {first}"
        raise VoiceModelError(msg + "; give a whole checkpoint")
    check_vocoder(vocoder)
    return vocoder.eval().requires_grad_(False)


def check_vocoder(vocoder: SpeechT5HifiGan) -> None:
    """Refuse a vocoder that takes another spectrogram than the analysis makes, in one line."""
    config = vocoder.config
    hop = int(np.prod(config.upsample_rates))
    given = (config.model_in_dim, config.sampling_rate, hop)
    if given != (MELS, RATE, HOP):
        msg = f"vocoder: {MELS} mels, {RATE} Hz and a hop of {HOP} samples are needed, received "
        msg += f"{given[0]}, {given[1]} and {given[2]}; use one like microsoft/speecht5_hifigan"
        raise VoiceModelError(msg)


def vocode(vocoder: SpeechT5HifiGan, mel: ArrayLike) -> NDArray[np.float32]:
    """Log10 mel (T, 80) -> float32 (256 T,): in parts that see all they need, so no seams."""
    rows = torch.as_tensor(np.asarray(mel, dtype=np.float32))
    margin = _reach(vocoder.config)
    parts = []
    for first in range(0, len(rows), CHUNK):
        begin, last = max(0, first - margin), min(len(rows), first + CHUNK)
        part = rows[begin : last + margin].to(vocoder.device, vocoder.dtype)
        with torch.inference_mode():
            sound = vocoder(part).float().cpu().numpy()
        parts.append(sound[(first - begin) * HOP : (last - begin) * HOP])
    return np.concatenate(parts)


def _reach(config: Any) -> int:
    """Frames on each side that a sample of a HiFi-GAN depends on, rounded up."""
    frames, rate = 3.0, 1.0  # the first convolution, kernel 7
    for kernel, step in zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True):
        frames += np.ceil(kernel / step) / rate
        rate *= step
        frames += max(
            sum((size - 1) / 2 * (dilation + 1) for dilation in dilations) / rate
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            )
        )
    return int(np.ceil(frames + 3 / rate)) + 1
