"""Recipe: an adapter as other programs read it, with everything they may want to know of it.

    affect export ADAPTER --format kohya --out FILE.safetensors

One LoRA file of ours becomes one of diffusers' (`load_lora_weights`) or of kohya's names (ComfyUI,
WebUI; adapters/kohya_keys.py), always with alpha equal to the rank and scales worked in. Its header
says what it is in the fields other programs show: `modelspec.*` (Stability's ModelSpec 1.0.1) and
kohya's `ss_*`; beside it lie a model card with a strip of samples and, where the backbone has been
calibrated with this very slider, the certificate. Directions need no export: `DirectionBank.save`
writes safetensors that hold the facts themselves.

Knows of no layer's name, and paints nothing itself (training/model_card.py).

Sources: github.com/Stability-AI/ModelSpec; kohya-ss/sd-scripts `library/sai_model_spec.py`,
`library/train_util.py`; kohya-ss/musubi-tuner `utils/sai_model_spec.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from adapters.calibration import Calibration
from adapters.emotion import CORE
from adapters.families import FAMILIES, Family
from adapters.files import replacing
from adapters.kohya_keys import pairs, to_kohya
from adapters.lora import LoraBank

if TYPE_CHECKING:
    from pipelines import Backbone

Layout = Literal["diffusers", "kohya"]

_PARTS = ("unet", "transformer", "transformer_2")

# family: (ModelSpec architecture, kohya's version of the base, who published the layer names,
# usual size in pixels, width of the text states or None). Where the width is another one it is a
# model of one's own in that layout, and is called by its own name.
_KNOWN: dict[str, tuple[str, str, str, str, int | None]] = {
    "sd15": ("stable-diffusion-v1", "sd_v1", "diffusers", "512x512", 768),
    "animatediff": ("stable-diffusion-v1", "sd_v1", "diffusers", "512x512", 768),
    "sdxl": (
        "stable-diffusion-xl-v1-base",
        "sdxl_base_v1-0",
        "https://github.com/Stability-AI/generative-models",
        "1024x1024",
        2048,
    ),
    "sd3": ("stable-diffusion-3", "sd3_m", "diffusers", "1024x1024", None),
    "flux": (
        "flux-1",
        "flux1",
        "https://github.com/black-forest-labs/flux",
        "1024x1024",
        None,
    ),
    "wan": ("wan2.1", "wan", "https://github.com/Wan-Video/Wan2.1", "1280x720", None),
    "qwen-image": (
        "Qwen-Image",
        "qwen_image",
        "https://github.com/QwenLM/Qwen-Image",
        "1024x1024",
        None,
    ),
}


class ExportError(ValueError):
    """An adapter that cannot be exported as asked; one line, with what to do next."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA file of diffusers' names, scales worked in.

    parts: "unet", "transformer" or "transformer_2" -> {"<module>.lora_A.weight": tensor, ...}.
    facts: what training wrote under "affect"; empty for a file from elsewhere.
    """

    path: Path
    parts: Mapping[str, Mapping[str, torch.Tensor]]
    facts: Mapping[str, Any]

    @property
    def emotion(self) -> str | None:
        """The core emotion that a slider is for."""
        name = self.facts.get("emotion")
        return name if name in CORE else None


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter belongs to, as far as it is known: read from configs, no weights loaded."""

    family: str
    row: Backbone | None = None
    folder: Path | None = None
    layers: int = 2
    size: str | None = None
    prediction: str | None = None

    @property
    def name(self) -> str | None:
        """What people call the backbone: no path of this machine."""
        if self.row is None:
            return None
        return (
            Path(self.row.name).name
            if self.folder is not None and (Path(self.row.name).is_dir())
            else self.row.name
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """The files that were written, and what a person should know about them."""

    adapters: tuple[Path, ...]
    card: Path
    certificate: Path | None
    strip: Path | None
    notes: tuple[str, ...]


def export_adapter(
    path: Path | str,
    out: Path | str,
    *,
    layout: Layout = "kohya",
    backbone: str | None = None,
    calibration: Path | str | None = None,
    strip: bool = True,
    offline: bool | None = None,
) -> Exported:
    """Write an adapter for other programs, its card, strip and certificate beside it.

    Args:
        path: a safetensors file with plain LoRA keys, as `training.lora` or diffusers'
            `save_lora_weights` writes it.
        out: the file to write. A second expert's part (Wan 2.2) goes to `<out>-transformer_2`.
        layout: "diffusers", or "kohya" for ComfyUI and WebUI.
        backbone: name, folder or hub id of the model it was trained for; None takes the folder that
            has it in its `loras/`, and otherwise does without.
        calibration: a file of `affect calibrate`; None looks where runs look.
        strip: paint the samples; needs the backbone's weights, and is left out for video.
        offline: look only at this machine.

    Raises:
        ExportError: a file that is no LoRA, or a model that cannot be told without `backbone`.
        KohyaError: layers without a name in kohya's layout.
        BackboneError: a backbone that is not known or not here.
    """
    path, out = Path(path), Path(out)
    if layout not in ("diffusers", "kohya"):
        msg = f"format: expected diffusers or kohya, received {layout!r}"
        raise ExportError(msg)
    if out.suffix != ".safetensors" or out.resolve() == path.resolve():
        msg = f"out: expected another .safetensors file than the adapter, received {out}"
        raise ExportError(msg)
    adapter = read_adapter(path)
    base = find_base(adapter, backbone, offline=offline)
    part, denoiser = next(iter(adapter.parts)), _family(base).denoiser
    if part != denoiser:
        msg = f"backbone: {path} is for a {part}, {base.name or base.family} has a {denoiser}"
        raise ExportError(msg)
    notes = []
    found, why = find_certificate(adapter, base, calibration)
    if why:
        notes.append(why)
    picture = None
    if strip and base.folder is not None and not _family(base).frames:
        from training.model_card import paint_strip

        picture, other = paint_strip(adapter, base, offline=offline)
        if other:
            notes.append(other)
    elif strip:
        notes.append(
            "no strip of samples: films are not painted here"
            if _family(base).frames
            else "no strip of samples: say --backbone to have them painted"
        )
    written = []
    for number, (part, state) in enumerate(adapter.parts.items()):
        target = out if number == 0 else out.with_stem(f"{out.stem}-{part}")
        tensors = layout_of(part, state, base, layout)
        head = header(adapter, base, state, tensors, target.stem, layout, found, picture)
        with replacing(target) as fresh:
            save_file(tensors, fresh, metadata=head)
        written.append(target)
    beside: dict[str, Path | None] = {"certificate": None, "strip": None}
    if found is not None:
        beside["certificate"] = out.with_suffix(".json")
        text = json.dumps(found, indent=1, sort_keys=True) + "\n"
        with replacing(out.with_suffix(".json")) as fresh:
            fresh.write_text(text, encoding="utf-8")
    if picture is not None:
        beside["strip"] = out.with_suffix(".png")
        with replacing(out.with_suffix(".png")) as fresh:
            picture.sheet.save(fresh, format="PNG")
    from training.model_card import card

    with replacing(out.with_suffix(".md")) as fresh:
        fresh.write_text(card(adapter, base, tuple(written), layout, found, picture), "utf-8")
    return Exported(tuple(written), out.with_suffix(".md"), notes=tuple(notes), **beside)


def read_adapter(path: Path) -> Adapter:
    """Read a LoRA file of diffusers' names; the scale of a peft file is worked into its matrices.

    Raises:
        ExportError: no safetensors file, no plain LoRA, or numbers that are not finite.
    """
    if path.is_dir() or path.suffix != ".safetensors":
        msg = (
            f"adapter: expected a .safetensors file of a slider or an image LoRA, received {path}; "
            "styles of music, voices and faces are folders that only this program reads"
        )
        raise ExportError(msg)
    try:
        with safe_open(str(path), framework="pt") as file:
            heads = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = dict(json.loads(heads.get("affect", "{}")))
        # A model may have been a folder of somebody's machine; what leaves it has its name only.
        facts = {k: Path(v).name if _is_path(v) else v for k, v in facts.items()}
        peft = dict(json.loads(heads.get("lora_adapter_metadata", "{}")))
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        msg = f"adapter: {path} cannot be read ({error}); fetch or train it again"
        raise ExportError(msg) from error
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name in _PARTS:
        own = {k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name + ".")}
        if own:
            parts[name] = own
    endings = (".lora_A.weight", ".lora_B.weight")
    odd = (
        [
            k
            for k in state
            if not (k.startswith(tuple(f"{p}." for p in parts)) and k.endswith(endings))
        ]
        if parts
        else list(state)
    )
    if odd or not parts:
        msg = (
            f"adapter: {path} has keys like {odd[0] if odd else 'none'!r}; expected plain LoRA "
            "keys 'unet.<module>.lora_A.weight' or 'transformer...'"
        )
        raise ExportError(msg)
    for name, own in parts.items():
        scale = _scale(peft, name, path)
        for module, down, up in pairs(own):
            if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
                msg = f"adapter: {path} has numbers that are not finite in {module}; train again"
                raise ExportError(msg)
            own[f"{module}.lora_B.weight"] = (up.float() * scale).to(up.dtype)
    return Adapter(path, parts, facts)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def _scale(peft: Mapping[str, Any], part: str, path: Path) -> float:
    """alpha / rank as peft multiplies with it; 1 for a file that says nothing of it."""
    rank, alpha = peft.get(f"{part}.r"), peft.get(f"{part}.lora_alpha")
    if rank is None or alpha is None:
        return 1.0
    odd = [k for k in ("alpha_pattern", "rank_pattern", "use_dora") if peft.get(f"{part}.{k}")]
    if odd:
        msg = f"adapter: {path} has {odd[0]}, which is not exported; train with one rank and alpha"
        raise ExportError(msg)
    return float(alpha) / float(rank) ** (0.5 if peft.get(f"{part}.use_rslora") else 1.0)


def find_base(adapter: Adapter, backbone: str | None, *, offline: bool | None = None) -> Base:
    """The model of an adapter: as said, as the file says, beside it, or told by its layers.

    Raises:
        ExportError: when it cannot be told, or the backbone is of a family that takes no LoRA.
        BackboneError: a backbone that is not known or not here.
    """
    home = adapter.path.resolve().parent
    if backbone is None and home.name == "loras" and (home.parent / "model_index.json").is_file():
        backbone = str(home.parent)
    if backbone is not None:
        return _base_of(backbone, offline)
    said = adapter.facts.get("family")
    if said in {row.name for row in FAMILIES.values()}:
        return Base(said)
    part, state = next(iter(adapter.parts.items()))
    names = list(state)
    widths = {v.shape[-1] for k, v in state.items() if re.search(r"attn2\.to_[kv]\.lora_A", k)}
    guess = None
    if part == "unet":
        guess = {768: "sd15", 1024: "sd15", 2048: "sdxl"}.get(min(widths, default=0))
    elif all(re.match(r"blocks\.\d+\.(attn[12]|ffn)\.", name) for name in names):
        guess = "wan"
    elif any(".attn.to_q." in n and n.startswith("single_transformer_blocks") for n in names):
        guess = "flux"
    if guess is None:
        msg = f"backbone: {adapter.path} does not say which model it is for; say --backbone"
        raise ExportError(msg)
    return Base(guess)


def _base_of(backbone: str, offline: bool | None) -> Base:
    from pipelines import BackboneError, resolve
    from pipelines.weights import cached, check_here

    row = resolve(backbone)
    check_here(row, offline=offline)
    folder = row.folder or cached(row.weights, row.revision)
    if folder is None:
        msg = f"backbone: {row.name} is not on this machine; `affect models pull {row.name}` first"
        raise BackboneError(msg)
    index = _config(folder / "model_index.json")
    family = FAMILIES.get(str(index.get("_class_name")))
    if family is None or "lora" not in family.mechanisms:
        msg = f"backbone: {row.name} is a {index.get('_class_name')}, which takes no LoRA"
        raise ExportError(msg)
    denoiser = _config(folder / family.denoiser / "config.json")
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    levels = len(_config(folder / "vae" / "config.json").get("block_out_channels", ()))
    side = denoiser.get("sample_size")
    pixels = side * 2 ** (levels - 1) if isinstance(side, int) and levels else None
    kinds = {"epsilon": "epsilon", "v_prediction": "v"}
    return Base(
        family.name,
        row,
        folder,
        layers=int(denoiser.get("layers_per_block") or 2),
        size=f"{pixels}x{pixels}" if pixels and family.denoiser == "unet" else None,
        prediction=kinds.get(scheduler.get("prediction_type", "epsilon"))
        if family.prediction == "scheduler"
        else None,
    )


def _config(path: Path) -> dict[str, Any]:
    """A diffusers config; empty where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _family(base: Base) -> Family:
    return next(row for row in FAMILIES.values() if row.name == base.family)


def layout_of(
    part: str, state: Mapping[str, torch.Tensor], base: Base, layout: Layout
) -> dict[str, torch.Tensor]:
    """The tensors of one part under the names of `layout`."""
    if layout == "kohya":
        return to_kohya(state, base.family, layers=base.layers)
    # diffusers takes an expert's file by an argument (load_into_transformer_2), not by its names.
    prefix = part.removesuffix("_2")
    return {f"{prefix}.{key}": value.contiguous() for key, value in state.items()}


def find_certificate(
    adapter: Adapter, base: Base, calibration: Path | str | None
) -> tuple[dict[str, Any] | None, str]:
    """What a calibration proves about this slider, and why there is none.

    A calibration holds for the backbone's weights and ALL that acted on it, so this slider must be
    one of the bank it was measured with, byte for byte.

    Raises:
        ExportError: when a file that was asked for holds for something else.
    """
    from pipelines.belongings import cache_folder, digest_of_adapters

    emotion, model = adapter.emotion, str(adapter.facts.get("model"))
    kept = cache_folder() / model
    paths = [kept / "calibration.json"]
    banks = [kept / "loras", adapter.path.parent]
    if base.folder is not None:
        paths.append(base.folder / "calibration.json")
        banks.insert(0, base.folder / "loras")
    if calibration is not None:
        paths = [Path(calibration)]
    own = adapter.path.read_bytes()
    digests = set()
    for bank in banks:
        twin = bank / f"{emotion}.safetensors"
        if emotion and twin.is_file() and twin.read_bytes() == own:
            call = base.row.call if base.row is not None else {}
            digests.add(digest_of_adapters(model, LoraBank(bank), call))
    why = "no certificate: this slider has not been calibrated; see `affect calibrate image`"
    for path in paths:
        if not path.is_file() and calibration is None:
            continue
        found = Calibration.load(path)
        if emotion in found.responses and any(found.fits(model, digest) for digest in digests):
            whole = found.to_json()
            row = whole.pop("responses")[emotion]
            return {"emotion": emotion, **whole, **row}, ""
        why = "no certificate: the calibration is of other weights or without this emotion"
        if calibration is not None:
            msg = f"calibration: {path} was not measured with this slider; calibrate again"
            raise ExportError(msg)
    return None, why


def header(
    adapter: Adapter,
    base: Base,
    state: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    stem: str,
    layout: Layout,
    certificate: Mapping[str, Any] | None,
    picture: Any,
) -> dict[str, str]:
    """The header of an exported file: ours, ModelSpec's and kohya's fields, all of them text."""
    facts, emotion = adapter.facts, adapter.emotion
    architecture, version, implementation, size = _identity(base, state)
    name = base.name or architecture
    ranks = {down.shape[0] for _, down, _ in pairs(state)}
    rank = str(max(ranks)) if len(ranks) == 1 else "Dynamic"
    # The content behind the header, as both ModelSpec and kohya's own extensions hash it.
    data = save(dict(tensors))
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    title = f"{emotion} slider for {name}" if emotion else f"{stem} for {name}"
    head = {
        "format": "pt",
        "affect": json.dumps(dict(facts), sort_keys=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": implementation if layout == "kohya" else "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": base.size or size,
        "modelspec.description": describe(adapter),
        "modelspec.date": date.today().isoformat(),
        "modelspec.hash_sha256": f"0x{digest}",
        "modelspec.tags": ", ".join(t for t in ("emotion", emotion, "lora") if t),
        "sshs_model_hash": digest,
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_base_model_version": version,
        "ss_output_name": stem,
        "ss_training_comment": "Affect Studio",
    }
    if emotion:
        below = f"; below 0: {facts['opposite']}" if "opposite" in facts else ""
        head["modelspec.usage_hint"] = f"weight = how much {emotion}{below}; no trigger word"
    if base.prediction:
        head["modelspec.prediction_type"] = base.prediction
        head["ss_v2"] = str(architecture.startswith("stable-diffusion-v2"))
    if base.name:
        head["ss_sd_model_name"] = base.name
    known = {"ss_steps": "steps", "ss_learning_rate": "lr", "ss_seed": "seed"}
    head |= {theirs: str(facts[ours]) for theirs, ours in known.items() if ours in facts}
    if certificate is not None:
        head["affect.certificate"] = json.dumps(dict(certificate), sort_keys=True)
    if picture is not None:
        head["modelspec.thumbnail"] = picture.thumbnail
    return head


def describe(adapter: Adapter) -> str:
    """One or two sentences for people who have never heard of this program."""
    emotion, facts = adapter.emotion, adapter.facts
    if not emotion:
        return "A LoRA written by Affect Studio."
    if "eta" not in facts:  # only the recipe from prompts has it
        return f"One emotion, {emotion}, as a LoRA whose weight is the intensity."
    return (
        f"A bipolar slider of one emotion: positive weights paint {emotion}, negative ones "
        f"{facts.get('opposite', 'less of it')}, and the weight is the intensity. Trained from the "
        "model's own answers to prompts; no pictures were used."
    )


def _identity(base: Base, state: Mapping[str, torch.Tensor]) -> tuple[str, str, str, str]:
    """(architecture, kohya's version, implementation, usual size); own names for own models."""
    own = base.name or base.family
    if base.family not in _KNOWN:
        return own, own, "diffusers", "1024x1024"
    architecture, version, implementation, size, width = _KNOWN[base.family]
    widths = {v.shape[-1] for k, v in state.items() if re.search(r"attn2\.to_[kv]\.lora_A", k)}
    if width is None or not widths or base.family not in ("sd15", "animatediff", "sdxl"):
        return architecture, version, implementation, size
    if widths == {1024} and base.family == "sd15":
        v768 = base.prediction == "v"
        return f"stable-diffusion-v2-{'768-v' if v768 else '512'}", "sd_v2", implementation, size
    if widths != {width}:
        return own, own, implementation, size
    return architecture, version, implementation, size
