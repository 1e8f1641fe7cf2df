"""Adapters for other programs: loadable, honest about themselves, whole or refused in one line."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapters.calibration import Calibration, Response
from adapters.directions import DirectionBank
from adapters.families import model_digest
from adapters.kohya_keys import KohyaError
from adapters.lora import LoraBank
from adapters.slider_file import write_slider
from pipelines import BackboneError
from pipelines.belongings import Belongings
from studio.cli import run
from tests.test_kohya_keys import paint, random_lora
from tests.tiny import tiny, tiny_folder
from training.export import Exported, ExportError, export_adapter, find_base, read_adapter
from training.model_card import WEIGHTS, sheet


def header_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD with one slider of sadness and a calibration that was measured with it."""
    folder = tiny_folder("sd15", tmp_path_factory.mktemp("backbones") / "my-sd")
    pipe = tiny("sd15")
    facts = {
        "emotion": "sadness", "opposite": "happiness", "model": model_digest(pipe), "rank": 4,
        "eta": 3.5, "steps": 150, "lr": 0.002, "seed": 0, "backbone": str(folder),
    }  # fmt: skip
    slider = folder / "loras" / "sadness.safetensors"
    write_slider(slider, "unet", random_lora(pipe.unet), facts)
    own = Belongings(pipe, "my-sd", folder=folder, call={}, cache=folder / "none")
    levels = [i / 6 for i in range(7)]
    noise = np.random.default_rng(0).normal(0, 0.01, (7, 8))
    response = Response.fit(levels, np.array(levels)[:, None] * 0.8 + 0.1 + noise)
    Calibration(
        {"sadness": response}, "my-sd", own.digest, own.adapters_digest, "critic-image 0123",
        "2026-11-20", {"calibrated": False},
    ).save(folder / "calibration.json")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def exported(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("out") / "blue.safetensors"
    return export_adapter(backbone / "loras" / "sadness.safetensors", out)


def test_both_layouts_paint_what_the_slider_paints(
    backbone: Path, exported: Exported, tmp_path: Path
) -> None:
    slider = backbone / "loras" / "sadness.safetensors"
    made = export_adapter(slider, tmp_path / "d.safetensors", layout="diffusers", strip=False)
    assert load_file(made.adapters[0]).keys() == load_file(slider).keys()
    pipe = tiny("sd15")
    seen = [paint(pipe, "sd15")]
    for path in (slider, made.adapters[0], exported.adapters[0]):
        pipe.load_lora_weights(path)
        seen.append(paint(pipe, "sd15"))
        pipe.unload_lora_weights()
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    torch.testing.assert_close(seen[2], seen[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[3], seen[1], atol=1e-5, rtol=0)


def test_the_header_has_what_other_programs_show(exported: Exported) -> None:
    path = exported.adapters[0]
    head = header_of(path)
    # ModelSpec 1.0.1: these must be there.
    must = ("sai_model_spec", "architecture", "implementation", "title", "resolution")
    assert all(head[f"modelspec.{name}"] for name in must)
    assert head["modelspec.sai_model_spec"] == "1.0.1"
    assert head["modelspec.title"] == "sadness slider for my-sd"
    assert head["modelspec.resolution"] == "32x32"
    assert head["modelspec.prediction_type"] == "epsilon"
    # 32 features of text are not SD 1.5's 768: it must not be listed as one.
    assert head["modelspec.architecture"] == "my-sd/lora"
    data = path.read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert head["modelspec.hash_sha256"] == "0x" + digest
    assert head["sshs_model_hash"] == digest
    assert (head["ss_network_module"], head["ss_network_dim"], head["ss_network_alpha"]) == (
        "networks.lora", "4", "4",
    )  # fmt: skip
    assert (head["ss_steps"], head["ss_learning_rate"], head["ss_seed"]) == ("150", "0.002", "0")
    assert json.loads(head["affect"])["emotion"] == "sadness"
    kind, text = head["modelspec.thumbnail"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(text))).size) <= 256
    assert not any(str(path.parent) in value for value in head.values()), "no path of ours"


def test_real_architectures_have_their_names(tmp_path: Path) -> None:
    cases = {
        768: ("stable-diffusion-v1/lora", "sd_v1"),
        2048: ("stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0"),
    }
    for width, (architecture, version) in cases.items():
        name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        state = {f"{name}.lora_A.weight": torch.ones(2, width)}
        state[f"{name}.lora_B.weight"] = torch.ones(320, 2)
        write_slider(tmp_path / f"{width}.safetensors", "unet", state, {})
        made = export_adapter(tmp_path / f"{width}.safetensors", tmp_path / "k.safetensors")
        head = header_of(made.adapters[0])
        assert head["modelspec.architecture"] == architecture
        assert head["ss_base_model_version"] == version
        assert made.strip is None
        assert "say --backbone" in " ".join(made.notes)


def test_certificate_lies_beside_and_in_the_header(exported: Exported) -> None:
    assert exported.certificate is not None
    beside = json.loads(exported.certificate.read_text())
    assert beside == json.loads(header_of(exported.adapters[0])["affect.certificate"])
    assert beside["emotion"] == "sadness"
    assert beside["controllable"] is True
    assert len(beside["levels"]) == len(beside["fitted"]) == 7
    assert beside["critic"] == "critic-image 0123"
    assert exported.notes == ()


def test_a_calibration_of_other_weights_is_no_certificate(backbone: Path, tmp_path: Path) -> None:
    """The same slider trained once more: every byte counts."""
    slider = backbone / "loras" / "sadness.safetensors"
    with safe_open(str(slider), framework="pt") as file:
        facts = json.loads(file.metadata()["affect"])
    state = {k.removeprefix("unet."): v * 1.01 for k, v in load_file(slider).items()}
    other = tmp_path / "sadness.safetensors"
    write_slider(other, "unet", state, facts)
    out, where = tmp_path / "o.safetensors", str(backbone)
    made = export_adapter(other, out, backbone=where, strip=False)
    assert made.certificate is None
    assert not out.with_suffix(".json").exists()
    assert "affect.certificate" not in header_of(out)
    assert "other weights" in made.notes[0]
    assert "nobody has measured" in made.card.read_text()
    with pytest.raises(ExportError, match="not measured with this slider"):
        export_adapter(other, out, backbone=where, calibration=backbone / "calibration.json")
    same = export_adapter(
        slider, out, backbone=where, calibration=backbone / "calibration.json", strip=False
    )
    assert same.certificate is not None


def test_card_and_strip(exported: Exported) -> None:
    text = exported.card.read_text()
    assert text.startswith("---\nlibrary_name: diffusers\n")
    for words in ("# blue: sadness as a dial", "<lora:blue:0.7>", "(blue.png)", "| read | 0.1"):
        assert words in text
    assert str(exported.card.parent) not in text
    assert exported.strip is not None
    page = np.asarray(Image.open(exported.strip).convert("RGB"), dtype=float)
    cells = [page[30:222, 8 + i * 200 : 200 + i * 200] for i in range(len(WEIGHTS))]
    moved = [np.abs(cell - cells[2]).mean() for cell in cells]
    assert moved[2] == 0
    assert moved[0] > 0.5
    assert moved[4] > 0.5, "the weight has to show"


def test_the_middle_of_a_strip_is_the_plain_model() -> None:
    grey = [Image.new("RGB", (32, 32), (i * 50,) * 3) for i in range(5)]
    page = sheet([grey, grey], ["one", "two"])
    assert page.getpixel((8 + 2 * 200 + 96, 30 + 96)) == (100, 100, 100)
    assert page.size == (8 + 5 * 200, 30 + 2 * 222)


def test_peft_scales_are_worked_in(tmp_path: Path) -> None:
    """What diffusers' save_lora_weights writes with alpha 8 and rank 4 acts twice as strongly."""
    pipe = tiny("sd15")
    state = {f"unet.{key}": value for key, value in random_lora(pipe.unet).items()}
    peft = {"unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_q", "to_k", "to_v"]}
    path = tmp_path / "own.safetensors"
    save_file(state, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(peft)})
    scaled = read_adapter(path).parts["unet"]
    for key, value in scaled.items():
        torch.testing.assert_close(value, state[f"unet.{key}"] * (2 if "lora_B" in key else 1))
    peft["unet.rank_pattern"] = {"to_q": 8}
    save_file(state, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(peft)})
    with pytest.raises(ExportError, match="rank_pattern"):
        read_adapter(path)


def test_two_experts_become_two_files(tmp_path: Path) -> None:
    pair = {"blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 4)}
    pair["blocks.0.attn1.to_q.lora_B.weight"] = torch.ones(4, 2)
    both = {f"transformer.{k}": v for k, v in pair.items()}
    both |= {f"transformer_2.{k}": v * 2 for k, v in pair.items()}
    save_file(both, tmp_path / "wan.safetensors")
    for layout, key in (
        ("kohya", "lora_unet_blocks_0_self_attn_q.lora_up.weight"),
        ("diffusers", "transformer.blocks.0.attn1.to_q.lora_B.weight"),
    ):
        made = export_adapter(
            tmp_path / "wan.safetensors", tmp_path / "out.safetensors", layout=layout
        )
        assert [path.name for path in made.adapters] == [
            "out.safetensors", "out-transformer_2.safetensors",
        ]  # fmt: skip
        assert [load_file(path)[key][0, 0].item() for path in made.adapters] == [1, 2]
        assert header_of(made.adapters[0])["modelspec.architecture"] == "wan2.1/lora"
        assert "films are not painted" in made.notes[-1]


def test_the_model_is_told_or_asked_for(tmp_path: Path) -> None:
    def adapter(module: str, facts: dict[str, Any]) -> Any:
        state = {f"{module}.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
        write_slider(tmp_path / "x.safetensors", "transformer", state, facts)
        return read_adapter(tmp_path / "x.safetensors")

    assert find_base(adapter("single_transformer_blocks.0.attn.to_q", {}), None).family == "flux"
    both = "transformer_blocks.0.attn.to_q"  # SD3, Flux and Qwen-Image all have it
    assert find_base(adapter(both, {"family": "sd3"}), None).family == "sd3"
    with pytest.raises(ExportError, match="say --backbone"):
        find_base(adapter(both, {}), None)
    with pytest.raises(BackboneError, match="not a name"):
        find_base(adapter(both, {}), "nothing-like-it")


def test_directions_are_safetensors_that_say_what_they_are(tmp_path: Path) -> None:
    pipe = tiny("sd15")
    path = DirectionBank.fit(pipe).save(tmp_path / "directions.safetensors")
    facts = json.loads(header_of(path)["affect"])
    assert facts["digest"] == model_digest(pipe)
    assert len(facts["names"]) == 12
    with pytest.raises(ExportError, match="expected plain LoRA keys"):
        export_adapter(path, tmp_path / "o.safetensors")


def test_bad_input_is_one_line_and_leaves_nothing(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slider = str(backbone / "loras" / "sadness.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    save_file({"unet.x.lora_A.weight": torch.full((2, 2), torch.nan),
               "unet.x.lora_B.weight": torch.ones(2, 2)}, tmp_path / "nan.safetensors")  # fmt: skip
    out = str(tmp_path / "made" / "o.safetensors")
    for arguments, words in (
        ([str(tmp_path / "broken.safetensors"), "--out", out], "cannot be read"),
        ([str(tmp_path / "none.safetensors"), "--out", out], "cannot be read"),
        ([str(tmp_path / "nan.safetensors"), "--out", out], "not finite"),
        ([str(tmp_path), "--out", out], "expected a .safetensors file"),
        ([slider, "--out", str(tmp_path / "made" / "o.bin")], "expected another .safetensors"),
        ([slider, "--out", slider], "expected another .safetensors"),
        ([slider, "--out", out, "--format", "onnx"], "onnx"),
        ([slider, "--out", out, "--backbone", "voice-tiny"], "takes no LoRA"),
    ):
        assert run(["export", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1, error
    assert not (tmp_path / "made").exists()
    # Known models: one without such names, one of another kind.
    state = {f"layers.0.attention.to_q.lora_{s}.weight": torch.ones(2, 2) for s in "AB"}
    write_slider(tmp_path / "z.safetensors", "transformer", state, {"family": "z-image"})
    with pytest.raises(KohyaError):
        export_adapter(tmp_path / "z.safetensors", Path(out))
    with pytest.raises(ExportError, match="is for a transformer, my-sd has a unet"):
        export_adapter(tmp_path / "z.safetensors", Path(out), backbone=str(backbone))
    assert not (tmp_path / "made").exists()


def test_the_verb_prints_its_files(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slider, out = backbone / "loras" / "sadness.safetensors", tmp_path / "verb.safetensors"
    arguments = ["export", str(slider), "--format", "diffusers", "--out", str(out), "--no-strip"]
    assert run(arguments) == 0
    names = capsys.readouterr().out.split()
    assert [Path(name).name for name in names] == ["verb.safetensors", "verb.md", "verb.json"]
    assert LoraBank({"sadness": out}).names == ("sadness",)
    assert run([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["adapters"], data["strip"]) == ([str(out)], None)
