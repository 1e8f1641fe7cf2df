"""Train music-tiny: a small Llama over the layout's tokens, from sheets in C.

Self-supervised: every attribute in the text is measured from the music itself, so no labels are
needed. Each attribute is hidden for a whole window with probability HIDE (all of them with
HIDE_ALL), which teaches the unconditional branch of classifier-free guidance (Ho & Salimans 2022).
Hidden matrices are trained with Muon (Jordan et al. 2024), embeddings and norms with AdamW; the
rate falls to a twentieth. It deliberately does not know emotions; nothing labelled is read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.music_attributes import measure
from pipelines.music_layout import (
    BAR_CONTROLS,
    LEFT,
    PIECE_CONTROLS,
    Edges,
    Layout,
    make_tokenizer,
)
from pipelines.music_sheet import Sheet, bar_attributes, repeats
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint
from training.music_data import is_held_out, load_sheets

CONTEXT = 1024  # tokens; about 16 bars
BATCH = 16
WINDOW = 16  # bars over which the attributes of a piece are measured
EVERY = 4  # bars between window starts: music begins on phrase lines
HIDE, HIDE_ALL, HIDE_BAR = 0.15, 0.1, 0.05
MEASURED = {
    "Rhythm": "rhythmic_variability",
    "Interval": "melodic_variability",
    "Range": "pitch_range",
    "Dissonance": "dissonance",
}
"""Control of a piece -> the attribute that it is a step of."""


def make_model(vocabulary: int, width: int = 256, layers: int = 4) -> LlamaForCausalLM:
    """A new model with random weights; heads of 64, feed-forward of three widths."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Song:
    """A sheet made ready: what each bar says, and the steps of its attributes.

    notes: tokens of each bar from its chords on. steps: (bars, len(BAR_CONTROLS)) indices into
    the layout's control tokens. whole: window start bar -> steps of PIECE_CONTROLS. last: bars.
    """

    notes: list[list[int]]
    steps: np.ndarray
    whole: dict[int, np.ndarray]


def values_of(sheet: Sheet, first: int) -> dict[str, float]:
    """The attributes of the window that starts at bar `first`."""
    part = sheet.piece.between(first, min(first + WINDOW, sheet.piece.bars))
    found = measure(part)
    values = {name: float(found[source]) for name, source in MEASURED.items()}
    return {"Tempo": sheet.bpm, **values}


def fit_edges(sheets: Sequence[Sheet]) -> Edges:
    """Quantile edges of every attribute over the training music."""
    found: dict[str, list[np.ndarray]] = {}
    for sheet in sheets:
        bars = bar_attributes(sheet.piece)
        for name, values in bars.items():
            found.setdefault(name, []).append(values)
        for first in range(0, max(1, sheet.piece.bars - WINDOW // 2), 4 * EVERY):
            for name, value in values_of(sheet, first).items():
                found.setdefault(name, []).append(np.array([value]))
    table = dict(Edges.fit({name: np.concatenate(rows) for name, rows in found.items()}).table)
    table["Contour"] = (-2.0, 2.0)  # semitones a bar: falling, level, rising
    return Edges(table)


def ready(sheet: Sheet, layout: Layout, edges: Edges) -> Song:
    """Tokens and steps of a sheet, so that a window is only put together while training."""
    piece = sheet.piece
    bars = bar_attributes(piece)
    again = repeats(piece)
    names = [name for name in BAR_CONTROLS if name != "Repeat"]
    steps = np.array(
        [[*(edges.step(n, bars[n][bar]) for n in names), again[bar]] for bar in range(piece.bars)]
    )
    notes = [
        layout.bar_tokens(piece.between(bar, bar + 1), [], sheet.chords[bar])[1:]
        for bar in range(piece.bars)
    ]
    whole = {}
    for first in range(0, max(1, piece.bars - WINDOW // 2), EVERY):
        values = values_of(sheet, first)
        row = {"Source": sheet.source, "Mode": int(sheet.minor)}
        row |= {name: edges.step(name, value) for name, value in values.items()}
        whole[first] = np.array([row[name] for name in PIECE_CONTROLS])
    return Song(notes, steps, whole)


def window(song: Song, first: int, layout: Layout, rng: np.random.Generator | None) -> list[int]:
    """CONTEXT tokens (or to the song's end) from bar `first`; rng hides attributes, None none."""
    piece_names, bar_names = list(PIECE_CONTROLS), list(BAR_CONTROLS)
    all_hidden = rng is not None and rng.random() < HIDE_ALL
    hidden = {
        name
        for name in (*piece_names, *bar_names)
        if all_hidden or (rng is not None and rng.random() < HIDE)
    } - {"Source"}
    tokens = []
    for name, step in zip(piece_names, song.whole[first], strict=True):
        ids = layout.control[name]
        tokens.append(int(ids[-1] if name in hidden else ids[step]))
    total = len(song.notes)
    for bar in range(first, total):
        tokens.append(layout.bar)
        left = total - 1 - bar
        if left < LEFT:
            tokens.append(int(layout.left[left]))
        for column, name in enumerate(bar_names):
            ids = layout.control[name]
            blank = name in hidden or (rng is not None and rng.random() < HIDE_BAR)
            # What lies before the window cannot be repeated from: its distance is unknown there.
            tokens.append(int(ids[-1] if blank else ids[song.steps[bar, column]]))
        tokens += song.notes[bar]
        if len(tokens) > CONTEXT:
            break
    else:
        tokens.append(layout.bar)  # a bar line with nothing after it: the end
    return tokens[: CONTEXT + 1]


def batches(
    songs: Sequence[Song], layout: Layout, batch: int, rng: np.random.Generator
) -> Iterator[Tensor]:
    """Endless (batch, CONTEXT + 1) windows, each start equally likely within an epoch."""
    places = [(i, first) for i, song in enumerate(songs) for first in song.whole]
    while True:
        order = rng.permutation(len(places))
        for at in range(0, len(order) - batch + 1, batch):
            rows = [
                window(songs[places[i][0]], places[i][1], layout, rng)
                for i in order[at : at + batch]
            ]
            yield padded(rows, layout.pad)


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """(n, CONTEXT + 1) int64, padded on the right."""
    out = torch.full((len(rows), CONTEXT + 1), pad, dtype=torch.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row)
    return out


def loss_of(model: LlamaForCausalLM, tokens: Tensor, ignored: Tensor) -> Tensor:
    """Mean nats a token; `ignored` (vocabulary,) marks tokens that the composer is always given."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    target = tokens[:, 1:].clone()
    target[ignored[target]] = -100
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=-100)


def ignored_tokens(layout: Layout) -> Tensor:
    """Padding and attributes: they are measured or planned, never sampled."""
    mask = torch.zeros(layout.size, dtype=torch.bool)
    mask[layout.pad] = True
    for ids in layout.control.values():
        mask[torch.from_numpy(ids)] = True
    mask[torch.from_numpy(layout.left)] = True
    return mask


def optimizers(model: LlamaForCausalLM) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return {
        "muon": torch.optim.Muon(
            matrices, lr=1.0, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.95), weight_decay=0.01),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes, resuming what --run holds, and write the averaged model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sheets", type=Path, default=Path(".work/music/sheets.npz"))
    parser.add_argument(
        "--run", type=Path, default=Path(".work/music/run"), help="checkpoints, log"
    )
    parser.add_argument("--out", type=Path, help="folder for the model, when given")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=2000, help="length of the rate's schedule")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    torch.manual_seed(given.seed)
    torch.set_flush_denormal(True)
    named = load_sheets(given.sheets)
    train = [sheet for name, sheet in named if not is_held_out(name)]
    tokenizer = make_tokenizer()
    layout = Layout(tokenizer)
    given.run.mkdir(parents=True, exist_ok=True)
    if not (given.run / "controls.json").exists():
        fit_edges(train).save(given.run / "controls.json")
    edges = Edges.load(given.run / "controls.json")
    began = time.monotonic()
    songs = [ready(sheet, layout, edges) for sheet in train]
    held = [ready(sheet, layout, edges) for name, sheet in named if is_held_out(name)]
    windows = sum(len(song.whole) for song in songs)
    print(f"{len(songs)} songs, {windows} windows, {len(held)} held out, "
          f"{time.monotonic() - began:.0f} s to prepare", flush=True)  # fmt: skip
    model = make_model(layout.size, given.width, given.layers).to(given.device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    average = Average(model, 0.998)
    optimizer = optimizers(model)
    generator = torch.Generator().manual_seed(given.seed)
    folder = given.run / "checkpoint"
    step = load_checkpoint(folder, {"model": model}, {"model": average}, optimizer, generator)
    rng = np.random.default_rng([given.seed, step])
    feed = batches(songs, layout, given.batch, rng)
    check = padded(
        [window(s, f, layout, None) for s in held for f in list(s.whole)[:1]][:48], layout.pad
    )
    ignored = ignored_tokens(layout).to(given.device)
    log = Log(given.run / "log.jsonl", given.batch * CONTEXT)
    log.step = step
    end = time.monotonic() + 60 * given.minutes
    saved = time.monotonic()
    while time.monotonic() < end and step < given.steps:
        rate = cosine(step, given.steps, given.rate, 50)
        for part in optimizer.values():
            for group in part.param_groups:
                group["lr"] = rate
        tokens = next(feed).to(given.device)
        with torch.autocast(given.device.split(":")[0], torch.bfloat16):
            loss = loss_of(model, tokens, ignored)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in optimizer.values():
            part.step()
            part.zero_grad(set_to_none=True)
        average.update(model, step)
        step += 1
        log.add(loss=loss.detach(), rate=rate)
        if step % 20 == 0:
            log.report(step)
        if time.monotonic() - saved > 240 or step == given.steps:
            saved = time.monotonic()
            save_checkpoint(
                folder, step, {"model": model}, {"model": average}, optimizer, generator
            )
            held_loss = validate(model, average, check, ignored)
            print(json.dumps({"step": step, "held_out": round(held_loss, 4)}), flush=True)
            if given.out:
                export(model, average, tokenizer, edges, given.out)
    save_checkpoint(folder, step, {"model": model}, {"model": average}, optimizer, generator)
    if given.out:
        export(model, average, tokenizer, edges, given.out)
    return 0


@torch.no_grad()
def validate(model: LlamaForCausalLM, average: Average, tokens: Tensor, ignored: Tensor) -> float:
    """Held-out nats a token of the averaged weights."""
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    device = next(model.parameters()).device
    losses = [
        loss_of(model, tokens[at : at + 8].to(device), ignored).item()
        for at in range(0, len(tokens), 8)
    ]
    model.load_state_dict(own)
    return float(np.mean(losses))


def export(
    model: LlamaForCausalLM, average: Average, tokenizer: object, edges: Edges, folder: Path
) -> None:
    """Write the averaged weights as an ordinary folder: transformer/, tokenizer/, controls.json."""
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average.state)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder / "transformer")
    model.to(torch.float32).load_state_dict(own)
    tokenizer.save_pretrained(folder / "tokenizer")  # type: ignore[attr-defined]
    edges.save(folder / "controls.json")


if __name__ == "__main__":
    raise SystemExit(main())
