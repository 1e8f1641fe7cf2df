"""Encoders of speech that torchaudio has, as ordinary folders of safetensors.

torchaudio publishes wav2vec 2.0, HuBERT and WavLM (also VoxPopuli, XLSR) under the names of its
bundles, as pickles. They are converted once, by an explicit command that lets torch read tensors
and nothing else; what is loaded afterwards are safetensors:

    python -m adapters.torchaudio_encoder torchaudio:HUBERT_BASE

It deliberately does not know what the states of an encoder are used for. torchaudio is an extra
(`voice`) and is imported where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

TORCHAUDIO = "torchaudio:"


class SpeechEncoderError(ValueError):
    """An encoder or recordings that cannot be used; one line that says what would do."""


class TorchaudioEncoder(ModelMixin, ConfigMixin):
    """A torchaudio wav2vec 2.0, HuBERT or WavLM as an ordinary diffusers part.

    factory: "wav2vec2_model" (HuBERT too) or "wavlm_model". params: its arguments. normalize: zero
    mean and unit variance per recording, as the large models were trained.
    """

    @register_to_config
    def __init__(self, factory: str, params: dict[str, Any], normalize: bool = False) -> None:
        super().__init__()
        if factory not in ("wav2vec2_model", "wavlm_model"):
            msg = f"speech encoder: factory wav2vec2_model or wavlm_model, received {factory!r}"
            raise SpeechEncoderError(f"{msg}; convert the bundle again")
        models = _torchaudio().models
        self.net = getattr(models, factory)(**params)

    def forward(self, waveforms: Tensor, layer: int) -> Tensor:
        """(B, samples) -> (B, T, d) of `layer`, 1 the first."""
        states, _ = self.net.extract_features(waveforms, num_layers=layer)
        return states[-1]


def _torchaudio() -> Any:
    try:
        import torchaudio
    except (ImportError, OSError, RuntimeError) as error:  # a build for another torch
        msg = (
            "speech encoder: torchaudio is not usable here; install the extra: affect-studio[voice]"
        )
        raise SpeechEncoderError(msg) from error
    return torchaudio


def bundle_of(name: str) -> Any:
    """The torchaudio bundle of "torchaudio:NAME".

    Raises:
        SpeechEncoderError: torchaudio is not there, or has no such speech encoder.
    """
    pipelines = _torchaudio().pipelines
    wanted = name.removeprefix(TORCHAUDIO)
    known = {
        key: value
        for key, value in vars(pipelines).items()
        if isinstance(value, pipelines.Wav2Vec2Bundle)
    }
    if wanted not in known:
        msg = f"speech encoder: torchaudio has no {wanted!r}; it has {', '.join(sorted(known))}"
        raise SpeechEncoderError(msg)
    return known[wanted]


def converted_folder(name: str) -> Path:
    """Where `convert` puts a bundle: beside torch's own cache."""
    return Path(torch.hub.get_dir()) / "safetensors" / name.removeprefix(TORCHAUDIO)


def convert(name: str, folder: Path | None = None) -> Path:
    """Fetch a torchaudio bundle (or take it from torch's cache) and write it as safetensors.

    torch reads the published pickle with its restricted reader, which makes tensors and nothing
    else. folder: where to; None: where `SpeechEncoder.load(name)` looks.

    Raises:
        SpeechEncoderError: no such bundle, or no network.
    """
    bundle = bundle_of(name)
    try:
        net = bundle.get_model(dl_kwargs={"weights_only": True, "progress": False})
    except Exception as error:
        # OSError: no network. The last is what the restricted reader says of anything but tensors;
        # naming its class would import pickle.
        if not isinstance(error, OSError | RuntimeError) and "Unpickling" not in repr(type(error)):
            raise
        msg = f"speech encoder: cannot fetch {name} ({type(error).__name__}); try with a network"
        raise SpeechEncoderError(msg) from error
    factory = {"Wav2Vec2": "wav2vec2_model", "WavLM": "wavlm_model"}[bundle._model_type]
    model = TorchaudioEncoder(factory, dict(bundle._params), bool(bundle._normalize_waveform))
    model.net.load_state_dict(getattr(net, "model", net).state_dict())
    target = folder or converted_folder(name)
    model.save_pretrained(target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a bundle: arguments torchaudio:NAME and, if wanted, a folder."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= len(given) <= 2 or not given[0].startswith(TORCHAUDIO):
        print(
            "use: python -m adapters.torchaudio_encoder torchaudio:NAME [FOLDER]", file=sys.stderr
        )
        return 2
    try:
        print(convert(given[0], Path(given[1]) if given[1:] else None))
    except SpeechEncoderError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
