"""A style is learned from MIDI files, written as an ordinary peft folder, and comes off again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from adapters.music_adapter import (
    CONFIG,
    WEIGHTS,
    AdapterError,
    adapted,
    adapter_digest,
    check_adapter,
)
from adapters.piece import Piece
from pipelines.media_midi import encode_midi
from pipelines.music_layout import make_tokenizer
from pipelines.music_sheet import found_sheet
from training.loop import Average, save_checkpoint
from training.music import export, fit_edges, make_model
from training.music_lora import (
    Found,
    Settings,
    StyleError,
    in_playable_metre,
    open_backbone,
    read_folder,
    report_figures,
    split,
    train_style,
)

QUICK = Settings(steps=12, batch=2, check=6, rate=0.02, rank=4)


def march(seed: int, bars: int = 12) -> Piece:
    """A style anyone can learn: the same rhythm and chord in every bar, the tune chosen freely."""
    draw = np.random.default_rng(seed)
    rows = []
    for bar in range(bars):
        rows += [(4 * bar + at, 1.0, int(draw.choice([72, 74, 76, 79])), 0) for at in range(4)]
        rows += [(4 * bar + at, 2.0, p, 1) for at in (0, 2) for p in (48, 52, 55)]
    a = np.array(rows)
    return Piece.of(a[:, 0], a[:, 1], a[:, 2], 70, a[:, 3])


def write_marches(folder: Path, count: int, bars: int = 12) -> Path:
    folder.mkdir(parents=True)
    for seed in range(count):
        (folder / f"march-{seed}.mid").write_bytes(encode_midi(march(seed, bars), {}))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A composer's folder with random weights, made by the recipe's own `export`."""
    folder = tmp_path_factory.mktemp("composer")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = make_model(len(tokenizer.vocab), width=64, layers=1)
    edges = fit_edges([found_sheet(march(seed)) for seed in range(3)])
    export(model, Average(model, 0.9), tokenizer, edges, folder)
    return folder


@pytest.fixture(scope="module")
def style(
    backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    """A trained style and its figures."""
    root = tmp_path_factory.mktemp("style")
    data = write_marches(root / "midi", 10)
    figures = train_style(
        data, backbone=backbone, out=root / "adapter", settings=QUICK, base="tiny"
    )
    return root / "adapter", figures


def test_a_style_is_learned_and_the_figures_say_so(style: tuple[Path, dict[str, object]]) -> None:
    out, figures = style
    assert figures["held_out_after"] < figures["held_out_before"] - 0.2
    assert figures["gain_interval"][0] > 0
    assert figures["independent"]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", CONFIG, WEIGHTS, "log.jsonl",
    ]  # fmt: skip
    text = (out / "README.md").read_text()
    assert "knows the style better" in text
    assert f"{figures['held_out_after']:.3f}" in text
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12]


def test_windows_of_one_piece_are_one_witness() -> None:
    before, after = np.repeat(np.linspace(-1, 3, 6), 10), np.zeros(60)
    alone = report_figures(before, after, list(range(60)))
    grouped = report_figures(before, after, [k // 10 for k in range(60)])
    assert alone["gain"] == grouped["gain"] == 1
    assert np.ptp(grouped["gain_interval"]) > 2 * np.ptp(alone["gain_interval"])


def test_the_folder_is_an_ordinary_peft_adapter(
    style: tuple[Path, dict[str, object]], backbone: Path
) -> None:
    out, figures = style
    config = json.loads((out / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert str(out.parent) not in (out / CONFIG).read_text() + (out / "README.md").read_text()
    model, layout, _ = open_backbone(backbone)
    tokens = torch.arange(2 * 40).reshape(2, 40) % layout.size
    plain = model(tokens).logits
    with adapted(model, out):
        worn = model(tokens).logits
    assert figures["digest"] == adapter_digest(out)
    theirs = PeftModel.from_pretrained(open_backbone(backbone)[0], str(out)).eval()
    torch.testing.assert_close(theirs(tokens).logits, worn)
    assert not torch.allclose(plain, worn, atol=1e-3)


def test_a_style_comes_off_without_a_trace(
    style: tuple[Path, dict[str, object]], backbone: Path
) -> None:
    out, _ = style
    model, layout, _ = open_backbone(backbone)
    model.eval()
    tokens = torch.arange(40)[None] % layout.size
    plain, modules = model(tokens).logits, list(model.modules())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = torch.random.get_rng_state()
    half = torch.empty(0)
    try:
        with adapted(model, out, 0.5):
            half = model(tokens).logits
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert torch.equal(model(tokens).logits, plain)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(torch.random.get_rng_state(), before)
    with adapted(model, out, 0.0):
        assert torch.equal(model(tokens).logits, plain)
    with adapted(model, out, 1.0):
        whole = model(tokens).logits
        with pytest.raises(AdapterError, match="wears an adapter already"), adapted(model, out):
            pass
    assert (half - plain).abs().mean() < (whole - plain).abs().mean()
    with adapted(model, out, 1.0):  # a second time, and the key-value cache works
        again = model.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=True)
        fresh = model.generate(tokens, max_new_tokens=3, do_sample=False, use_cache=False)
    assert torch.equal(again, fresh)


def test_a_stopped_run_goes_on_where_it_stopped(backbone: Path, tmp_path: Path) -> None:
    data = write_marches(tmp_path / "midi", 6)
    options = {"backbone": backbone, "tell": lambda _: None}
    run = Settings(steps=4, batch=1, check=2, rank=2)
    whole = train_style(data, out=tmp_path / "whole", settings=run, **options)
    stopped = tmp_path / "stopped"

    def save_and_stop(*state: Any) -> None:
        save_checkpoint(*state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.music_lora.save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_style(data, out=stopped, settings=run, **options)
    assert not (stopped / WEIGHTS).exists()
    with pytest.raises(StyleError, match="pass --resume"):
        train_style(data, out=stopped, settings=run, **options)
    changed = Settings(steps=4, batch=1, check=2, rank=2, rate=0.5)
    with pytest.raises(StyleError, match="other rate"):
        train_style(data, out=stopped, settings=changed, resume=True, **options)
    assert json.loads((stopped / ".checkpoint" / "meta.json").read_text())["step"] == 2
    with (stopped / "log.jsonl").open("a") as file:  # told, then killed before it was kept
        file.write('{"step": 4, "loss": 9}\n{"st')
    resumed = train_style(data, out=stopped, settings=run, resume=True, **options)
    log = [json.loads(line) for line in (stopped / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    assert log[-1]["loss"] < 9
    assert resumed["held_out_after"] == whole["held_out_after"]
    a, b = load_file(stopped / WEIGHTS), load_file(tmp_path / "whole" / WEIGHTS)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not (stopped / ".checkpoint").exists()
    with pytest.raises(StyleError, match="finished adapter"):
        train_style(data, out=stopped, settings=run, **options)


def found(name: str, bars: int, group: str = "", *, held: bool = False) -> Found:
    return Found(name, found_sheet(march(len(name), bars)), group or name, held)


def test_what_cannot_be_used_is_told_in_one_line(backbone: Path, tmp_path: Path) -> None:
    data = write_marches(tmp_path / "midi", 2, bars=32)
    (data / "broken.mid").write_bytes(b"MThd but nothing else")
    (data / "five.mid").write_bytes(
        encode_midi(Piece.of(np.arange(80), 1, 60, beats_per_bar=5), {})
    )
    (data / "short.mid").write_bytes(encode_midi(march(0, bars=3), {}))
    told: list[str] = []
    usable = read_folder(data, tell=told.append)
    assert [one.name for one in usable] == ["march-0.mid", "march-1.mid"]
    assert all("\n" not in line for line in told)
    assert told[0] == "4 of 5 files for music, layout plain"
    left = [line.removeprefix("left out: ") for line in told if line.startswith("left out: ")]
    assert [line.split(".mid")[0] for line in left] == ["broken", "five", "short"]
    assert "five.mid has an odd metre" in left[1]
    train, held = split(usable)  # two long pieces: the ends are held out
    assert [sheet.piece.bars for sheet in train] == [24, 24]
    assert [sheet.piece.bars for sheet in held] == [8, 8]
    assert held[0].chords.shape == (8, 2)
    with pytest.raises(StyleError, match="too little to hold some out"):
        split([found("a", bars=12)])
    with pytest.raises(StyleError, match="is no folder"):
        read_folder(tmp_path / "nothing", tell=told.append)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StyleError, match=r"holds 0 files of \.mid"):
        read_folder(empty, tell=told.append)
    shutil.copy(data / "broken.mid", empty)
    with pytest.raises(StyleError, match=r"0 usable files for music .*1 are damaged.*broken\.mid"):
        read_folder(empty, tell=told.append)
    shutil.copy(data / "five.mid", empty)
    with pytest.raises(StyleError, match="none of the 1 files"):
        read_folder(empty, tell=told.append)
    with pytest.raises(StyleError, match=r"holds no controls\.json"):
        train_style(data, backbone=empty, out=tmp_path / "x")
    with pytest.raises(StyleError, match="rank: allowed 1 or more, received 0"):
        Settings(rank=0)


def test_files_are_held_out_by_their_names_alone() -> None:
    pieces = [found(f"{i}.mid", bars=8) for i in range(10)]
    train, held = split(pieces)
    assert (len(train), len(held)) == (8, 2)
    _, other = split(pieces[::-1])
    assert [id(sheet) for sheet in other] == [id(sheet) for sheet in held]


def test_songs_are_never_torn_and_a_declared_split_is_kept(tmp_path: Path) -> None:
    songs = [found(f"{i}.mid", 8, group=f"song{i // 2}") for i in range(12)]
    train, held = split(songs)
    assert (len(train), len(held)) == (8, 4)  # two of six songs
    of = {id(one.sheet): one.group for one in songs}
    assert not {of[id(sheet)] for sheet in train} & {of[id(sheet)] for sheet in held}
    data = write_marches(tmp_path / "midi", 6, bars=8)
    rows = ["file_name,emotion,split"] + [
        f"march-{k}.mid,sadness,{'test' if k == 3 else 'train'}" for k in range(6)
    ]
    (data / "metadata.csv").write_text("\n".join(rows))
    told: list[str] = []
    train, held = split(read_folder(data, tell=told.append))
    assert (len(train), len(held)) == (5, 1)
    assert any("emotions of the files are left aside" in line for line in told)


def test_two_bars_of_two_are_one_of_four() -> None:
    march_in_two = Piece.of(np.arange(30), 1, 60, beats_per_bar=2)
    joined = in_playable_metre(march_in_two)
    assert joined is not None
    assert (joined.beats_per_bar, joined.bars) == (4.0, 8)
    assert in_playable_metre(Piece.of(np.arange(30), 1, 60, beats_per_bar=2.5)) is None


def test_what_is_no_adapter_is_refused_before_the_model_is_touched(
    style: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out, _ = style
    other = LlamaForCausalLM(make_model(50, width=128, layers=1).config)
    with pytest.raises(AdapterError, match="is for another model"), adapted(other, out):
        pass
    with pytest.raises(AdapterError, match=r"has no adapter_model\.safetensors"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"PK")
    with pytest.raises(AdapterError, match="only a pickle"):
        check_adapter(tmp_path)
    with pytest.raises(AdapterError, match=r"lora_weight: allowed 0 to 2, received 3"):
        check_adapter(out, 3.0)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    config = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(AdapterError, match="only plain LORA"):
        check_adapter(copy)
    (copy / CONFIG).write_text("not json")
    with pytest.raises(AdapterError, match="no readable adapter_config"):
        check_adapter(copy)
    (copy / CONFIG).write_text(json.dumps(config))
    (copy / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(AdapterError, match="cannot be read"), adapted(other, copy):
        pass
