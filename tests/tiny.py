"""Tiny pipelines of the real diffusers classes: random weights, some 300 kB each, no network.

Each one has every part its full-size sister has (tokenizer, text encoders, denoiser, autoencoder,
scheduler), so that a test runs the real code path of a backbone: chat templates, padding, packed
latents, pooled vectors, doubled batches. What the pictures look like means nothing here.

`tiny(name)` builds one (seeded: the same weights every time), `tiny_folder(name, folder)` saves one
as an ordinary `from_pretrained` folder, `CALL[name]` holds the call arguments that make it fast.
`tiny_composer(folder)` does the same for music: a Llama of two layers over the real REMI tokenizer;
`tiny_voice(folder)` for voices: both denoisers of `VoicePipeline`, narrow, with real directions;
`tiny_portrait(folder)` for talking faces.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

FAMILIES = ("sd15", "sdxl", "sd3", "flux", "flux2-klein", "z-image", "qwen-image")

# Call arguments for a two-step run with classifier-free guidance on (wherever the class has it).
CALL: dict[str, dict[str, Any]] = {
    "sd15": {"guidance_scale": 3.0},
    "sdxl": {"guidance_scale": 3.0},
    "sd3": {"guidance_scale": 3.0, "max_sequence_length": 48},
    "flux": {"true_cfg_scale": 2.0, "negative_prompt": "", "max_sequence_length": 48},
    "flux2-klein": {"guidance_scale": 3.0, "max_sequence_length": 64},
    "z-image": {"guidance_scale": 3.0, "max_sequence_length": 64},
    "qwen-image": {"true_cfg_scale": 3.0, "negative_prompt": " "},
}
for _arguments in CALL.values():
    _arguments.update(height=32, width=32, num_inference_steps=2, output_type="pt")

# One token a word for these; every other word falls back to bytes or single letters.
_WORDS = (
    "a an the of in at on with and photo painting street city lake mountain forest house room sea "
    "beach dog cat flower garden road field sky night day dusk dawn light dark bright pale vivid "
    "muted warm cold soft high low contrast colour tones quiet calm plain ordinary large small old "
    "young happy sad angry afraid bored tender amused excited surprised disgusted serene awe love "
    "fear anger joy sadness gloomy stormy sunny rotten funny festive dull sudden vast lonely"
)

# The layout of Qwen3's own chat template, as both Flux2-klein and Z-Image use it.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


def _bpe(suffix: str, prefix: str, specials: tuple[str, ...]) -> tuple[dict[str, int], list[Any]]:
    """Byte-level BPE tables in which each of _WORDS merges into one token (mostly)."""
    letters = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys([*letters, *(letter + suffix for letter in letters)])
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS.split():
        *parts, last = word
        parts.append(last + suffix)
        left = parts[0]
        for right in parts[1:]:
            merges[left, right] = None
            left += right
            tokens[left] = None
        if prefix:  # the space before a word, which Qwen's tokens carry
            merges[prefix, left] = None
            tokens[prefix + left] = None
    vocab = {token: index for index, token in enumerate([*tokens, *specials])}
    return vocab, list(merges)


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A real CLIPTokenizer, 77 tokens long; SDXL's second one pads with "!" instead of EOS."""
    vocab, merges = _bpe("</w>", "", ("<|startoftext|>", "<|endoftext|>"))
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    """A real T5 unigram tokenizer: no BOS, `</s>` at the end."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-()"
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [("▁" + word, -3.0) for word in _WORDS.split() if len(word) > 1]
    vocab += [(letter, -6.0) for letter in letters]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A real Qwen2 tokenizer with a chat template."""
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    vocab, merges = _bpe("", "Ġ", specials)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, model_max_length=2048)
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials[1:3])})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _fill(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Fill every parameter from `generator`: no zero-initialised gate hides a steering effect."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if id(parameter) in embeddings:
                parameter.normal_(0.0, 1.0, generator=generator)
            elif parameter.ndim > 1:  # about unit gain: signals neither die nor explode
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=generator)
            else:
                parameter.normal_(1.0, 0.1, generator=generator)
    return module.eval()


def _clip_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": 32,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextConfig(**{**settings, **changes})


def _t5(tokenizer: T5TokenizerFast, width: int = 32) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )


def _qwen_settings(tokenizer: Qwen2Tokenizer, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.pad_token_id,
    }


def _vae(**changes: Any) -> AutoencoderKL:
    """Four times smaller than the picture on each side (the real ones: eight)."""
    settings = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**{**settings, **changes})


def _flow(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**changes)


def _sd15() -> StableDiffusionPipeline:
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> StableDiffusionXLPipeline:
    first, second = clip_tokenizer(), clip_tokenizer(pad="!")
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_clip_config(first)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, hidden_act="gelu")),
        tokenizer_2=second,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def _sd3() -> StableDiffusion3Pipeline:
    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=80,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
        ),
        scheduler=_flow(shift=3.0),
        vae=_vae(
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModelWithProjection(_clip_config(first)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, hidden_act="gelu")),
        tokenizer_2=second,
        # Wider than both CLIPs together (64), as in the real model: CLIP's part is zero-padded.
        text_encoder_3=_t5(third, width=80),
        tokenizer_3=third,
    )


def _flux() -> FluxPipeline:
    first, second = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        scheduler=_flow(use_dynamic_shifting=True, shift=3.0),
        vae=_vae(
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=CLIPTextModel(_clip_config(first)),
        tokenizer=first,
        text_encoder_2=_t5(second),
        tokenizer_2=second,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def _flux2_klein() -> Flux2KleinPipeline:
    tokenizer = qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=_flow(use_dynamic_shifting=True, shift=3.0),
        vae=AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        ),
        # 27 layers, because the class reads hidden states 9, 18 and 27 by default.
        text_encoder=Qwen3ForCausalLM(Qwen3Config(head_dim=8, **_qwen_settings(tokenizer, 27))),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=False,
    )


def _z_image() -> ZImagePipeline:
    tokenizer = qwen_tokenizer()
    return ZImagePipeline(
        scheduler=_flow(shift=3.0),
        vae=_vae(
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        text_encoder=Qwen3Model(Qwen3Config(head_dim=8, **_qwen_settings(tokenizer, 3))),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    )


def _qwen_image() -> QwenImagePipeline:
    tokenizer = qwen_tokenizer()
    text = _qwen_settings(tokenizer, 2)
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [1, 1, 2],
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return QwenImagePipeline(
        scheduler=_flow(use_dynamic_shifting=True, shift=1.0),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[-0.76, -0.71, 0.97, 0.11],
            latents_std=[2.82, 1.45, 1.22, 1.77],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ),
    )


_BUILD: dict[str, Callable[[], DiffusionPipeline]] = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "flux2-klein": _flux2_klein,
    "z-image": _z_image,
    "qwen-image": _qwen_image,
}


def tiny(name: str, seed: int = 0) -> DiffusionPipeline:
    """A tiny random pipeline of the real class of family `name` (one of FAMILIES), float32, CPU.

    Pictures are multiples of 8 pixels; `CALL[name]` makes a 32 px one in two steps.
    """
    pipe = _BUILD[name]()
    generator = torch.Generator().manual_seed(seed)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            _fill(component, generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_folder(name: str, folder: Path, seed: int = 0) -> Path:
    """Save `tiny(name)` as an ordinary safetensors folder and return its path."""
    tiny(name, seed).save_pretrained(folder, safe_serialization=True)
    return folder


def generators(*seeds: int) -> list[torch.Generator]:
    """One CPU generator a seed: what a batch of independent pictures is drawn from."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def tiny_composer(folder: Path, seed: int = 0) -> Path:
    """Write a composer with random weights as an ordinary folder of music; returns its path.

    Real classes throughout: LlamaForCausalLM, MidiTok's REMI, the steps of every control. What it
    writes is noise, but noise that keeps to the grammar of a piece.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.music_layout import BAR_CONTROLS, PIECE_CONTROLS, Edges, make_tokenizer

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    _fill(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # tied embeddings of size 1 would make it all but certain of one token
        model.get_input_embeddings().weight.mul_(0.2)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / "transformer", safe_serialization=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    # Ordinary music: the middle step of each control is about what the directions' centre asks.
    low_high = {
        "Tempo": (60, 150), "Rhythm": (0.1, 1), "Interval": (1, 6), "Range": (15, 50),
        "Dissonance": (0, 0.3), "Density": (4, 24), "Polyphony": (1, 6), "Register": (50, 75),
        "Length": (0.3, 2), "Contour": (-4, 4), "Repeat": (0, 5), "Source": (0, 1), "Mode": (0, 1),
    }  # fmt: skip
    edges = {}
    for name, steps in (PIECE_CONTROLS | BAR_CONTROLS).items():
        low, high = low_high[name]
        edges[name] = tuple(low + (high - low) * (i + 1) / steps for i in range(steps - 1))
    Edges(edges).save(folder / "controls.json")
    return folder


def tiny_voice(folder: Path, seed: int = 0) -> Path:
    """Write an editing model with random weights as an ordinary folder of voices; returns its path.

    The real classes: two VoiceDenoisers, the scheduler, the directions of the literature. What it
    asks of a voice is the emotion's mean change and, around it, smooth noise.
    """
    from adapters.voice_analysis import BAND_CENTRES
    from adapters.voice_emotion import fit
    from pipelines.voice_model import VoiceDenoiser, VoicePipeline, make_scheduler

    generator = torch.Generator().manual_seed(seed)
    heads = [
        VoiceDenoiser(channels=n, width=16, depth=2, embedding=8, spread=spread)
        for n, spread in ((3, (1.0, 1.0, 0.1)), (25, (1.0,) * 25))
    ]
    pipe = VoicePipeline(*[_fill(head, generator) for head in heads], make_scheduler())
    pipe.directions = fit({}, BAND_CENTRES)
    pipe.set_progress_bar_config(disable=True)
    return pipe.save(folder)


def tiny_portrait(folder: Path, seed: int = 0) -> Path:
    """Write a model of facial motion with random weights as an ordinary folder; returns its path.

    The real classes: a PortraitDenoiser, narrow, and its scheduler. What it adds to the muscles of
    an emotion is smooth noise of a tenth of a channel.
    """
    from pipelines.portrait_model import (
        COLUMNS,
        PortraitDenoiser,
        PortraitPipeline,
        make_scheduler,
    )

    model = PortraitDenoiser(width=32, depth=2, heads=2, codes=8, scale=(0.1,) * COLUMNS)
    _fill(model, torch.Generator().manual_seed(seed))
    pipe = PortraitPipeline(model.eval(), make_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe.save(folder)
