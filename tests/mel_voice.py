"""Tiny parts of the real route of voices: random weights in the real classes, no network.

`tiny_encoder(kind)` is a SpeechEncoder over a Wav2Vec2Model, WavLMModel, HubertModel or a model of
torchaudio; `tiny_vocoder()` a SpeechT5HifiGan; `tiny_mel()` a MelVoicePipeline whose average
voice and directions are set by hand, so that tests know what moving an embedding should do.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from adapters.emotion import CORE
from adapters.speech_encoder import SpeechEncoder, directions_from
from pipelines.voice_average import FEATURES, AverageVoice, read_source
from pipelines.voice_mel import MelVoicePipeline, make_mel_scheduler
from pipelines.voice_model import VoiceDenoiser
from tests.speech import sentence

WIDTH = 16
SMALL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (16, 20),  # 20 ms between states, as in the real ones
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
REAL = {
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config),
    "wavlm": (WavLMModel, WavLMConfig),
    "hubert": (HubertModel, HubertConfig),
}


def tiny_encoder(kind: str = "wavlm") -> SpeechEncoder:
    """One of REAL, or "torchaudio" (needs torchaudio)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "torchaudio":
            from adapters.torchaudio_encoder import TorchaudioEncoder

            params = {
                "extractor_mode": "group_norm",
                "extractor_conv_layer_config": [[8, 10, 16], [8, 8, 20]],
                "extractor_conv_bias": False,
                "encoder_embed_dim": WIDTH,
                "encoder_projection_dropout": 0.1,
                "encoder_pos_conv_kernel": 8,
                "encoder_pos_conv_groups": 2,
                "encoder_num_layers": 2,
                "encoder_num_heads": 2,
                "encoder_attention_dropout": 0.1,
                "encoder_ff_interm_features": 32,
                "encoder_ff_interm_dropout": 0.1,
                "encoder_dropout": 0.1,
                "encoder_layer_norm_first": False,
                "encoder_layer_drop": 0.0,
                "aux_num_out": None,
            }
            return SpeechEncoder(TorchaudioEncoder("wav2vec2_model", params).eval(), None, 1)
        model, config = REAL[kind]
        return SpeechEncoder(model(config(**SMALL)).eval(), Wav2Vec2FeatureExtractor(), 1)


def tiny_vocoder() -> SpeechT5HifiGan:
    """80 mels and a hop of 256, with weights large enough to be heard."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = SpeechT5HifiGanConfig(
            upsample_initial_channel=16,
            upsample_rates=[16, 16],
            upsample_kernel_sizes=[32, 32],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]],
            initializer_range=0.2,
        )
        return SpeechT5HifiGan(config).eval()


def tiny_mel(kind: str = "wavlm") -> MelVoicePipeline:
    """All parts; anger raises the pitch 4 semitones, sadness lowers it 3, boredom narrows it."""
    encoder = tiny_encoder(kind)
    read = read_source(encoder, sentence())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        denoiser = VoiceDenoiser(
            channels=80,
            width=24,
            depth=2,
            embedding=16,
            features=FEATURES,
            condition=WIDTH,
            spread=(0.3,) * 80,
        )
        torch.nn.init.normal_(denoiser.leave.weight, std=0.2)
        for block in denoiser.blocks:
            torch.nn.init.normal_(block.film.weight, std=0.3)
        average = AverageVoice(WIDTH, units=6)
        mean = torch.from_numpy(read.mel).mean(dim=0)
        for name, value in {
            "frame_mean": read.states.mean(dim=0),
            "frame_scale": read.states.std(dim=0),
            "centres": torch.randn(6, WIDTH),
            "mels": mean + 0.2 * torch.randn(6, 80),
            "mel_mean": mean,
            "speech_mean": read.embedding - 0.05,
            "speech_scale": torch.full((WIDTH,), 0.1),
            "pitch": torch.eye(WIDTH)[:, :2],
        }.items():
            getattr(average, name).data.copy_(value)
        moves = {name: 0.1 * torch.randn(1, WIDTH) for name in ("anger", "sadness", "boredom")}
    for name, (semitones, spread) in {
        "anger": (4.0, 0.2),
        "sadness": (-3.0, 0.0),
        "boredom": (0.0, -0.5),
    }.items():
        moves[name][0, :2] = 0.1 * torch.tensor([semitones, spread])
    pipe = MelVoicePipeline(
        denoiser.eval(),
        make_mel_scheduler(),
        average,
        encoder.model,
        tiny_vocoder(),
        encoder.extractor,
        encoder.layer,
    )
    pipe.directions = directions_from(moves, torch.zeros(0, WIDTH), digest=encoder.digest)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unit(name: str, intensity: float = 1.0) -> np.ndarray:
    """(12,) one emotion."""
    out = np.zeros(len(CORE))
    out[CORE.index(name)] = intensity
    return out
