"""Speech-emotion embeddings: an encoder by name, and the directions of emotions in its space.

    encoder = SpeechEncoder.load("microsoft/wavlm-base-plus")       # or hubert, wav2vec2, a folder
    h = encoder.embed([waveform], 16000)                            # (1, 768)
    bank = fit_speech_directions(encoder, pairs)                    # h' = h + D g(a) + W r

wav2vec 2.0 (Baevski et al. 2020), HuBERT (Hsu et al. 2021), WavLM (Chen et al. 2022) and data2vec
(Baevski et al. 2022) as transformers has them, or a bundle of torchaudio by its name
("torchaudio:HUBERT_BASE"). A recording is the mean over the frames in which somebody speaks of one
layer, as in the embeddings of EmoReg (AAAI 2025); the layer two thirds up is the default, because
the middle layers carry phones and manner of speaking alike (Pasad et al. 2021), the last ones what
the pretext task asked. Directions are means of same-sentence differences (adapters/directions.py).

Only safetensors are read, and no code of a repository runs.

It deliberately knows no diffusion and no file of sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from adapters.basis import factorise, project_out
from adapters.directions import DirectionBank
from adapters.emotion import CORE, VAD
from adapters.torchaudio_encoder import (
    TORCHAUDIO,
    SpeechEncoderError,
    TorchaudioEncoder,
    bundle_of,
    converted_folder,
)
from adapters.voice_analysis import HOP, RATE, VoiceError, analyse, at_rate
from adapters.weight_files import first_danger

KINDS = ("data2vec-audio", "hubert", "sew", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
"""Types of transformers' models with the same interface: samples in, a state per 20 ms out."""
SPEECH = "speech"
"""Name of the one vector in a DirectionBank of this space."""
WINDOW, MARGIN = 20 * RATE, 2 * RATE
"""Samples a long recording is read in, and what is read beside and thrown away: attention costs the
square of the length, and these models were trained on 15 to 30 s."""
SHORTEST = RATE // 10  # samples; shorter sounds are filled up with silence
SPEAKER_AXES = 8
RIDGE = 0.1  # of W, as for every other bank


@dataclass(frozen=True, slots=True)
class SpeechEncoder:
    """An encoder ready to read.

    model: of transformers, or a TorchaudioEncoder. extractor: transformers' feature extractor, None
    for torchaudio. layer: 1 to `layers_of(model)`.

    Raises:
        SpeechEncoderError: a layer the model does not have, or one that reads another rate.
    """

    model: nn.Module
    extractor: Any
    layer: int

    def __post_init__(self) -> None:
        """Check the layer and the rate."""
        most = layers_of(self.model)
        if not 1 <= self.layer <= most:
            msg = f"layer: 1 to {most} of this speech encoder, received {self.layer}"
            raise SpeechEncoderError(f"{msg}; leave it out for {default_layer(self.model)}")
        rate = getattr(self.extractor, "sampling_rate", RATE)
        if rate != RATE:
            msg = f"speech encoder: {RATE} samples a second are read here, this one reads {rate}"
            raise SpeechEncoderError(f"{msg}; choose a 16 kHz model")

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        layer: int | None = None,
        revision: str | None = None,
        offline: bool | None = None,
    ) -> SpeechEncoder:
        """Load an encoder in evaluation mode, float32, on the processor.

        Args:
            name: a hub name, a folder that transformers or `SpeechEncoder.save` wrote, or
                "torchaudio:" and the name of a bundle that was converted.
            layer: whose states are read, 1 the first; None: `default_layer`.
            revision: of a hub repository.
            offline: look only on this machine; None: as HF_HUB_OFFLINE says.

        Raises:
            SpeechEncoderError: one line: no such weights, pickles only, no speech encoder.
        """
        text = str(name)
        if text.startswith(TORCHAUDIO):
            folder = converted_folder(text)
            if not (folder / "config.json").is_file():
                bundle_of(text)
                msg = f"speech encoder: torchaudio publishes {text} as a pickle, which is not read"
                msg = f"{msg}; convert it once: python -m adapters.torchaudio_encoder {text}"
                raise SpeechEncoderError(msg)
            text = str(folder)
        if Path(text).is_dir() and (why := first_danger(Path(text))):
            msg = f"speech encoder: {why}; save it as safetensors (save_pretrained) without it"
            raise SpeechEncoderError(msg)
        if _is_torchaudio(Path(text)):
            model, extractor = _from_torchaudio(text), None
        else:
            model, extractor = _from_transformers(text, revision, offline)
        model.eval().requires_grad_(False)
        return cls(model, extractor, default_layer(model) if layer is None else layer)

    def save(self, folder: Path | str) -> Path:
        """Write an ordinary folder that `load` reads (the layer is not part of it)."""
        self.model.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)
        return Path(folder)

    @property
    def width(self) -> int:
        """Length d of an embedding."""
        config = self.model.config
        if isinstance(self.model, TorchaudioEncoder):
            return int(config.params["encoder_embed_dim"])
        return int(config.hidden_size)

    @property
    def digest(self) -> str:
        """16 hex digits of the layer and the weights: shapes, and up to 64 values of each tensor.

        Values are rounded to bfloat16, so that half precision keeps its digest.
        """
        h = hashlib.sha256(str(self.layer).encode())
        for tensor in sorted(_sample(tensor) for tensor in self.model.state_dict().values()):
            h.update(tensor)
        return h.hexdigest()[:16]

    @torch.inference_mode()
    def frames(self, waveform: ArrayLike, sample_rate: int = RATE) -> Tensor:
        """States of the layer: float32 (T, d), frame j centred on sample `centres(T)[j]` of 16 kHz.

        Recordings over 20 s are read in parts with 2 s of what lies beside.

        Raises:
            VoiceError: no samples, another shape, not finite, over an hour, or another rate.
        """
        x = at_rate(waveform, sample_rate)
        x = np.pad(x, (0, max(0, SHORTEST - len(x))))
        values = self._prepared(x)
        _, stride = _geometry(self.model)
        count = self._count(len(x))
        step = (WINDOW - 2 * MARGIN) // stride * stride
        if len(x) <= WINDOW:
            return self._states(values)[:count]
        parts = []
        for first in range(0, len(x), step):
            begin = max(0, first - MARGIN // stride * stride)
            states = self._states(values[begin : first + step + MARGIN])
            skip = (first - begin) // stride
            last = first + step + MARGIN >= len(x)
            parts.append(states[skip:] if last else states[skip : skip + step // stride])
            if last:
                break
        return torch.cat(parts)[:count]

    def centres(self, frames: int) -> NDArray[np.float64]:
        """(frames,) samples at 16 kHz that the states are centred on."""
        reach, stride = _geometry(self.model)
        return (reach - 1) / 2 + stride * np.arange(frames, dtype=np.float64)

    def embed(self, waveforms: Sequence[ArrayLike], sample_rate: int = RATE) -> Tensor:
        """Means over the frames with speech (over all where nobody speaks): float32 (n, d).

        One after another, because padding changes what such models say of the shorter ones.

        Raises:
            SpeechEncoderError: no recording at all.
            VoiceError: one that cannot be read.
        """
        if not len(waveforms):
            msg = "speech encoder: received no recording; give at least one"
            raise SpeechEncoderError(msg)
        rows = []
        for waveform in waveforms:
            x = at_rate(waveform, sample_rate)
            rows.append(self.pooled(self.frames(x), analyse(x, RATE).speech))
        return torch.stack(rows)

    def pooled(self, states: Tensor, speech: ArrayLike) -> Tensor:
        """(d,) mean of states (T, d) where `speech`, the flags of an Analysis, says so."""
        said = np.asarray(speech, dtype=bool)
        near = np.rint(self.centres(len(states)) / HOP).astype(np.intp)
        flags = torch.from_numpy(said[np.clip(near, 0, len(said) - 1)])
        return states[flags].mean(dim=0) if flags.any() else states.mean(dim=0)

    def _prepared(self, x: NDArray[np.float32]) -> Tensor:
        """(samples,) as the model was trained on: often zero mean and unit variance."""
        if self.extractor is not None:
            read = self.extractor(x, sampling_rate=RATE, return_tensors="pt")
            return read.input_values[0].float()
        values = torch.from_numpy(np.ascontiguousarray(x))
        if self.model.config.normalize:
            return nn.functional.layer_norm(values, values.shape)
        return values

    def _states(self, values: Tensor) -> Tensor:
        given = values[None].to(self.model.device, self.model.dtype)
        if isinstance(self.model, TorchaudioEncoder):
            states = self.model(given, self.layer)
        else:
            states = self.model(given, output_hidden_states=True).hidden_states[self.layer]
        return states[0].float().cpu()

    def _count(self, samples: int) -> int:
        for kernel, stride in _convolutions(self.model):
            samples = (samples - kernel) // stride + 1
        return samples


def layers_of(model: nn.Module) -> int:
    """How many layers an encoder has."""
    if isinstance(model, TorchaudioEncoder):
        return int(model.config.params["encoder_num_layers"])
    return int(model.config.num_hidden_layers)


def default_layer(model: nn.Module) -> int:
    """Two thirds up: 8 of 12, 16 of 24."""
    return max(1, round(2 * layers_of(model) / 3))


# Loading -----------------------------------------------------------------------------------------


def _from_transformers(name: str, revision: str | None, offline: bool | None) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    given: dict[str, Any] = {"revision": revision} if revision else {}
    if offline:
        given["local_files_only"] = True
    try:
        config = AutoConfig.from_pretrained(name, **given)
    except (OSError, ValueError, KeyError) as error:
        raise SpeechEncoderError(_not_there(name, error)) from error
    if config.model_type not in KINDS:
        msg = f"speech encoder: {name} is of type {config.model_type}; known: {', '.join(KINDS)}"
        raise SpeechEncoderError(f"{msg}; choose one of these, such as microsoft/wavlm-base-plus")
    try:
        model, found = AutoModel.from_pretrained(
            name,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **given,
        )
        extractor = AutoFeatureExtractor.from_pretrained(name, **given)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SpeechEncoderError(_not_there(name, error)) from error
    # Fine-tuned checkpoints may lack the vector that masks frames, which only training uses.
    missing = sorted(set(found["missing_keys"]) - {"masked_spec_embed"})
    if missing:
        msg = f"speech encoder: {name} lacks {len(missing)} weights, the first {missing[0]}"
        raise SpeechEncoderError(f"{msg}; give a whole checkpoint of a {config.model_type}")
    return model, extractor


def _not_there(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason"
    if Path(name).is_dir():
        return (
            f"speech encoder: cannot load {name} ({reason}); give a folder that save_pretrained "
            "wrote for model and feature extractor, with safetensors"
        )
    return (
        f"speech encoder: no safetensors of {name} to be had ({reason}); run `hf download {name}` "
        "where there is a network, give a revision that has safetensors, or a folder"
    )


def _is_torchaudio(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("_class_name") == TorchaudioEncoder.__name__


def _from_torchaudio(folder: str) -> TorchaudioEncoder:
    try:
        return TorchaudioEncoder.from_pretrained(folder, use_safetensors=True)
    except SpeechEncoderError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise SpeechEncoderError(_not_there(folder, error)) from error


def _convolutions(model: nn.Module) -> list[tuple[int, int]]:
    """Kernel and stride of each convolution over samples."""
    if isinstance(model, TorchaudioEncoder):
        # what torchaudio takes for None
        layers = model.config.params["extractor_conv_layer_config"] or [
            (512, 10, 5),
            *[(512, 3, 2)] * 4,
            *[(512, 2, 2)] * 2,
        ]
        return [(int(kernel), int(stride)) for _, kernel, stride in layers]
    return list(zip(model.config.conv_kernel, model.config.conv_stride, strict=True))


def _geometry(model: nn.Module) -> tuple[int, int]:
    """Samples that a state sees of its own, and samples between states."""
    reach, stride = 1, 1
    for kernel, step in _convolutions(model):
        reach += (kernel - 1) * stride
        stride *= step
    return reach, stride


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    at = torch.linspace(0, max(0, flat.numel() - 1), min(64, flat.numel()), dtype=torch.float64)
    values = flat[at.round().long().to(flat.device)].float().cpu().bfloat16().float()
    return repr(tuple(tensor.shape)).encode() + values.numpy().tobytes()


# Directions --------------------------------------------------------------------------------------


class SpeechPair(NamedTuple):
    """Two takes of one sentence by one person, at `RATE` or `sample_rate`.

    neutral, emotional: (samples,). emotion: a core emotion. intensity: how strongly it is played;
    the difference counts as that much of the direction.
    """

    neutral: ArrayLike
    emotional: ArrayLike
    emotion: str
    speaker: str = ""
    intensity: float = 1.0
    sample_rate: int = RATE


def fit_speech_directions(
    encoder: SpeechEncoder, pairs: Sequence[SpeechPair], *, speaker_axes: int = SPEAKER_AXES
) -> DirectionBank:
    """Directions of the emotions in the encoder's space, vectors["speech"] (12, d).

    Emotions without pairs get M W of those that have some, no residual of their own.

    Args:
        pairs: same sentence, same person; at least one.
        speaker_axes: principal axes of the people's neutral means that no direction may lie in, at
            most; a quarter of d and one less than the people bound it too.

    Raises:
        SpeechEncoderError: no pairs, an unknown emotion, an intensity that is not above 0.
        VoiceError: a recording that cannot be read.
    """
    takes: dict[int, Tensor] = {}

    def embedded(waveform: ArrayLike, rate: int) -> Tensor:
        if id(waveform) not in takes:
            takes[id(waveform)] = encoder.embed([waveform], rate)[0]
        return takes[id(waveform)]

    differences: dict[str, list[Tensor]] = {}
    people: dict[str, list[Tensor]] = {}
    for pair in pairs:
        if not pair.intensity > 0:
            msg = (
                f"pairs: an intensity above 0 is needed, received {pair.intensity}; say how strong"
            )
            raise SpeechEncoderError(msg)
        base = embedded(pair.neutral, pair.sample_rate)
        change = embedded(pair.emotional, pair.sample_rate) - base
        differences.setdefault(pair.emotion, []).append(change / pair.intensity)
        people.setdefault(pair.speaker, []).append(base)
    return directions_from(
        {name: torch.stack(rows) for name, rows in differences.items()},
        torch.stack([torch.stack(rows).mean(dim=0) for rows in people.values()])
        if people
        else torch.zeros(0, encoder.width),
        digest=encoder.digest,
        speaker_axes=speaker_axes,
    )


def directions_from(
    differences: Mapping[str, Tensor],
    people: Tensor,
    *,
    digest: str,
    speaker_axes: int = SPEAKER_AXES,
) -> DirectionBank:
    """`fit_speech_directions` of embeddings: emotion -> (pairs, d), and people's means (n, d)."""
    unknown = sorted(set(differences) - set(CORE))
    if unknown or not differences:
        told = f"received {unknown[0]!r}" if unknown else "received no pairs"
        msg = f"pairs: emotions are {', '.join(CORE)}; {told}; give neutral and emotional takes"
        raise SpeechEncoderError(msg)
    measured = [name for name in CORE if name in differences]
    means = torch.stack([differences[name].double().mean(dim=0) for name in measured])
    axes = _axes(people.double(), min(speaker_axes, means.shape[1] // 4))
    clean = project_out(means, axes)
    kept = clean.norm(dim=1) / means.norm(dim=1).clamp_min(1e-12)
    rows = [CORE.index(name) for name in measured]
    M = torch.from_numpy(VAD[rows].astype(np.float64))
    W = torch.linalg.solve(M.T @ M + RIDGE * torch.eye(3, dtype=M.dtype), M.T @ clean)
    D = torch.from_numpy(VAD.astype(np.float64)) @ W
    D[rows] = clean
    shares = torch.ones(len(CORE), dtype=torch.float64)
    shares[rows] = kept
    return DirectionBank(
        digest=digest,
        family=SPEECH,
        vectors={SPEECH: D.float()},
        W={SPEECH: W.float()},
        r_squared={SPEECH: factorise(D, RIDGE)[1]},
        kept={SPEECH: shares.tolist()},
        pairs=sum(len(rows) for rows in differences.values()),
    )


def _axes(people: Tensor, most: int) -> Tensor:
    """Orthonormal (n, d): where people differ most in their neutral speech."""
    centred = people - people.mean(dim=0) if len(people) else people
    if len(people) < 2:
        return centred.new_zeros(0, people.shape[1])
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    real = int((sizes > 1e-6 * sizes[0].clamp_min(1e-12)).sum())
    return axes[: min(most, real, len(people) - 1)]


__all__ = [
    "SpeechEncoder",
    "SpeechEncoderError",
    "SpeechPair",
    "TorchaudioEncoder",
    "VoiceError",
    "fit_speech_directions",
]
