"""LoRA of the composer for a style, or for someone's own music: MIDI files in, a peft adapter out.

    affect train lora --modality music --data FOLDER_OF_MIDI --out DIR

Any layout and labelling is read (`training.folder`), every file as untrusted input, moved to C and
put on the page as the composer's own training music was (`training.music_data`), with its
attributes measured, so that the style answers the same emotions. Low-rank matrices on every linear
layer are trained (Hu et al. 2021), the model itself is not touched. A part of the files decides
when it knows the style: the weights written are those with the least loss there, never the last
ones of a run that has begun to copy. Another part, which decided nothing, says in the card how much
was learned.

It does not know how an adapter is worn (adapters.music_adapter) or what emotions are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from adapters.files import replacing
from adapters.music_adapter import CONFIG, WEIGHTS, adapter_digest
from adapters.piece import Piece
from pipelines.media_midi import load_midi
from pipelines.music_composer import Composer
from pipelines.music_layout import PIECE_CONTROLS, Edges, Layout
from pipelines.music_sheet import SOURCES, Sheet, found_sheet
from training.folder import Dataset
from training.folder_style import StyleError, read_style
from training.intervals import over_groups
from training.loop import Log, clip_gradients, cosine, load_checkpoint, save_checkpoint
from training.music import Song, batches, ignored_tokens, loss_of, padded, ready, window
from training.music_data import SHORTEST

EVERY_FIFTH = 5  # file is held out
CHECK_WINDOWS = 32  # of held-out music at most; at 1,024 tokens each seconds on one core
CHECKPOINT = ".checkpoint"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a style is trained. steps or minutes, whichever ends first; minutes 0: no limit.

    layout: of the folder, one of `training.folder.LAYOUTS` or auto. rank: of the matrices; alpha is
    equal to it. rate: peak learning rate. batch: windows of 1,024 tokens a step. check: steps
    between looks at the held-out files; patience: such looks without a better one until the run
    ends.
    """

    steps: int = 300
    minutes: float = 0.0
    rank: int = 8
    rate: float = 1e-3
    batch: int = 4
    check: int = 20
    patience: int = 4
    layout: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, low in (("steps", 1), ("rank", 1), ("batch", 1), ("check", 1), ("patience", 1)):
            if getattr(self, name) < low:
                msg = f"{name}: allowed {low} or more, received {getattr(self, name)}"
                raise StyleError(msg)
        if self.minutes < 0 or not self.rate > 0:
            msg = f"minutes: 0 or more, rate: above 0; received {self.minutes:g}, {self.rate:g}"
            raise StyleError(msg)


# Music -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A usable file: its sheet in C, what must not be torn from it, and a declared split."""

    name: str
    sheet: Sheet
    group: str
    held: bool = False


def read_folder(
    folder: Path | str, layout: str = "auto", tell: Callable[[str], None] = print
) -> list[Found]:
    """Every MIDI file under `folder` as a sheet in C; what cannot be used is told and left out.

    Raises:
        StyleError: no folder, no MIDI files, too many, or none that can be used.
    """
    return _sheets(read_style(folder, "music", layout, tell=tell), tell)


def _sheets(dataset: Dataset, tell: Callable[[str], None]) -> list[Found]:
    found = []
    for sample in dataset:
        piece = in_playable_metre(load_midi(sample.path))
        if piece is None or piece.bars < SHORTEST:
            why = "has an odd metre" if piece is None else f"is shorter than {SHORTEST} bars"
            tell(f"left out: {sample.name} {why}")
            continue
        held = sample.split == "held"
        found.append(Found(sample.name, found_sheet(piece), sample.group, held))
    if not found:
        msg = f"data: none of the {len(dataset)} files in {dataset.root} can be used; see above"
        raise StyleError(msg)
    if any(sample.labelled for sample in dataset):
        tell("the emotions of the files are left aside: a style is answered in all of them")
    return found


def in_playable_metre(piece: Piece) -> Piece | None:
    """The piece with 3 or 4 beats a bar; two bars of 2 are one of 4. None for other metres."""
    if piece.beats_per_bar == 2:
        piece = replace(piece, beats_per_bar=4.0, bars=-(-piece.bars // 2))
    return piece if piece.beats_per_bar in (3, 4) else None


def split(found: Sequence[Found]) -> tuple[list[Sheet], list[Sheet]]:
    """Training and held-out sheets: as declared, every fifth song, or the ends of a few long ones.

    By a hash of the group's name, which is the file's where nothing groups it, so that no order of
    files matters. With fewer than five groups the last quarter of each file is held out instead.

    Raises:
        StyleError: too little music to hold any out.
    """
    declared = {one.group for one in found if one.held}
    if declared and any(one.group not in declared for one in found):
        train = [one.sheet for one in found if one.group not in declared]
        return train, [one.sheet for one in found if one.held]
    groups: dict[str, list[Sheet]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one.sheet)
    if len(groups) >= EVERY_FIFTH:
        ranked = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        chosen = set(ranked[::EVERY_FIFTH])
        train = [sheet for name in ranked if name not in chosen for sheet in groups[name]]
        return train, [sheet for name in ranked[::EVERY_FIFTH] for sheet in groups[name]]
    train, held = [], []
    for one in found:
        sheet = one.sheet
        cut = sheet.piece.bars - sheet.piece.bars // 4
        if sheet.piece.bars - cut >= SHORTEST:
            train.append(_part(sheet, 0, cut))
            held.append(_part(sheet, cut, sheet.piece.bars))
        else:
            train.append(sheet)
    if not held:
        msg = (
            f"data: {len(found)} files of {len(groups)} songs under {4 * SHORTEST} bars are too "
            f"little to hold some out; give {EVERY_FIFTH} or more"
        )
        raise StyleError(msg)
    return train, held


def _part(sheet: Sheet, first: int, last: int) -> Sheet:
    return replace(sheet, piece=sheet.piece.between(first, last), chords=sheet.chords[first:last])


# Model -------------------------------------------------------------------------------------------


def open_backbone(folder: Path) -> tuple[LlamaForCausalLM, Layout, Edges]:
    """The composer's model, its token layout and the steps of its attributes."""
    try:
        composer = Composer.load(folder, device="cpu")
    except (OSError, ValueError) as error:
        raise StyleError(str(error)) from error
    return composer.model, composer.layout, composer.edges


def weights_digest(model: nn.Module) -> str:
    """16 hex digits over the weights a style belongs to."""
    h = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        h.update(name.encode())
        h.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


@contextmanager
def _student(model: LlamaForCausalLM, settings: Settings) -> Iterator[tuple[Any, Any]]:
    """The model with fresh matrices on its linear layers: (peft model, its matrices)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(settings.seed)
        student = get_peft_model(model, config)
    try:
        yield student, nn.ParameterList(p for p in student.parameters() if p.requires_grad)
    finally:
        student.unload()


# Training ----------------------------------------------------------------------------------------


def losses(model: nn.Module, rows: Tensor, ignored: Tensor) -> np.ndarray:
    """(n,) nats a token of each window (n, tokens)."""
    device = next(model.parameters()).device
    with torch.no_grad():
        found = [
            float(loss_of(model, rows[i : i + 1].to(device), ignored)) for i in range(len(rows))
        ]
    return np.array(found)


def train_style(
    folder: Path | str,
    *,
    backbone: Path | str,
    out: Path | str,
    settings: Settings | None = None,
    base: str = "",
    resume: bool = False,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a style on the MIDI files of a folder and write the adapter to `out`; returns figures.

    Args:
        folder: MIDI files, at any depth.
        backbone: folder of the composer; it is read only.
        out: folder of the adapter. A run that was stopped leaves `.checkpoint` there.
        settings: how long and how strongly; None: the defaults.
        base: name of the backbone for the adapter's config; "": the folder's.
        resume: go on with a checkpoint of the same files and settings where there is one.
        tell: takes lines for people.

    Raises:
        StyleError: unusable files, settings or folders, or a checkpoint that is in the way.
    """
    settings = settings or Settings()
    folder, out, backbone = Path(folder), Path(out), Path(backbone)
    checkpoint = out / CHECKPOINT
    _check_out(out, checkpoint, resume=resume)
    dataset = read_style(folder, "music", settings.layout, tell=tell)
    found = _sheets(dataset, tell)
    train, held = split(found)
    model, layout, edges = open_backbone(backbone)
    facts = {
        # A name that others know, never a path of this machine.
        "base": base if base and not Path(base).exists() else backbone.name,
        "weights": weights_digest(model),
        "files": [one.name for one in found],
        "data": dataset.digest,
        # How long to go on is not what a run is: a stopped one may be given more time.
        **{k: v for k, v in asdict(settings).items() if k not in ("steps", "minutes", "patience")},
    }
    _check_same(checkpoint, facts)
    # A style holds whatever source the composer is asked for, so each piece is shown as each.
    songs = [
        as_source(ready(sheet, layout, edges), source)
        for sheet in train
        for source in range(len(SOURCES))
    ]
    ignored = ignored_tokens(layout)
    unseen = [ready(sheet, layout, edges) for sheet in held]
    # The plain model is given its better guess of the source: the gain must not be that.
    source = min(
        range(len(SOURCES)),
        key=lambda s: losses(
            model, windows([as_source(u, s) for u in unseen], layout), ignored
        ).mean(),
    )
    unseen = [as_source(song, source) for song in unseen]
    # With one held-out piece the same music has to decide and to report; the card then says so.
    reported = unseen[1::2] or unseen
    check, report = (windows(songs_, layout) for songs_ in (unseen[::2], reported))
    before = losses(model, report, ignored)
    bars = sum(sheet.piece.bars for sheet in train)
    tell(
        f"{len(train)} pieces, {bars} bars; {len(held)} held out, "
        f"{before.mean():.3f} nats a token as it is"
    )
    out.mkdir(parents=True, exist_ok=True)
    with _student(model, settings) as (student, matrices):
        text = (songs, layout, check, ignored)
        figures = _fit(student, matrices, *text, settings, out, facts)
        pieces = [k for k, _ in places(reported)]
        figures |= report_figures(before, losses(student, report, ignored), pieces)
        figures |= {"pieces": len(train), "bars": bars, "held": max(1, len(held) // 2)}
        figures["independent"] = len(held) > 1
        _write(student, out, facts, figures)
    _clear(checkpoint)
    return {**figures, "digest": adapter_digest(out), "path": str(out)}


def _check_out(out: Path, checkpoint: Path, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        msg = f"out: {out} is a file; name a folder"
        raise StyleError(msg)
    if checkpoint.exists() and not resume:
        msg = f"out: {out} holds a run that was stopped; pass --resume latest, or another --out"
        raise StyleError(msg)
    if (out / WEIGHTS).exists() and not checkpoint.exists():
        msg = f"out: {out} holds a finished adapter; name another folder"
        raise StyleError(msg)


def _check_same(checkpoint: Path, facts: dict[str, Any]) -> None:
    meta = checkpoint / "meta.json"
    if not meta.is_file():
        return
    found = json.loads(meta.read_text(encoding="utf-8")).get("facts", {})
    if changed := sorted(key for key in facts if found.get(key) != facts[key]):
        msg = (
            f"out: the stopped run had other {', '.join(changed)}; "
            "give the same ones, or another --out"
        )
        raise StyleError(msg)


def places(songs: Sequence[Song]) -> list[tuple[int, int]]:
    """Where `windows` begin: number of the song, first bar."""
    every = [(k, first) for k, song in enumerate(songs) for first in song.whole]
    return every[:: max(1, -(-len(every) // CHECK_WINDOWS))]


def windows(songs: Sequence[Song], layout: Layout) -> Tensor:
    """At most CHECK_WINDOWS windows of songs with all attributes shown, evenly from all."""
    return padded([window(songs[k], at, layout, None) for k, at in places(songs)], layout.pad)


def as_source(song: Song, source: int) -> Song:
    """The song with another step of the Source control."""
    column = list(PIECE_CONTROLS).index("Source")
    whole = {first: row.copy() for first, row in song.whole.items()}
    for row in whole.values():
        row[column] = source
    return replace(song, whole=whole)


def _fit(
    student: Any,
    matrices: nn.ParameterList,
    songs: Sequence[Song],
    layout: Layout,
    check: Tensor,
    ignored: Tensor,
    settings: Settings,
    out: Path,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The loop; leaves the best matrices on the student."""
    optimizer = torch.optim.AdamW(matrices, lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(settings.seed)
    best = nn.ParameterList(nn.Parameter(p.detach().clone(), requires_grad=False) for p in matrices)
    modules = {"matrices": matrices, "best": best}
    checkpoint = out / CHECKPOINT
    step = load_checkpoint(checkpoint, modules, {}, optimizer, generator)
    if step:
        state = json.loads((checkpoint / "meta.json").read_text(encoding="utf-8"))["state"]
    else:  # Matrices as they start change nothing: the loss to beat is the plain model's.
        plain = float(losses(student, check, ignored).mean())
        state = {"least": plain, "at": 0, "waited": 0, "seconds": 0.0}
    batch = min(settings.batch, sum(len(song.whole) for song in songs))

    def feed_from(step: int) -> Iterator[Tensor]:  # afresh at every checkpoint: resuming is exact
        return batches(songs, layout, batch, np.random.default_rng([settings.seed, step]))

    feed = feed_from(step)
    log = Log(out / "log.jsonl", batch, total=settings.steps)
    log.step = step
    log.rewind(step)
    began = time.monotonic() - state["seconds"]
    limit = 60 * settings.minutes or float("inf")

    def progress() -> float:
        return max(step / settings.steps, (time.monotonic() - began) / limit)

    while progress() < 1 and state["waited"] < settings.patience:
        for group in optimizer.param_groups:
            group["lr"] = cosine(round(1000 * progress()), 1000, settings.rate, 50)
        loss = loss_of(student, next(feed), ignored)
        loss.backward()
        clip_gradients(matrices, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        log.add(loss=loss.detach())
        if step % settings.check and progress() < 1:
            continue
        held = float(losses(student, check, ignored).mean())
        log.add(held_out=held)
        spent = time.monotonic() - began
        log.report(step, max(0.0, spent * (1 / progress() - 1)))
        better = held < state["least"]
        if better:
            with torch.no_grad():
                for kept, now in zip(best, matrices, strict=True):
                    kept.copy_(now)
        state = {
            "least": min(held, state["least"]),
            "at": step if better else state["at"],
            "waited": 0 if better else state["waited"] + 1,
            "seconds": time.monotonic() - began,
        }
        meta = {"facts": facts, "state": state}
        save_checkpoint(checkpoint, step, modules, {}, optimizer, generator, meta)
        feed = feed_from(step)
    with torch.no_grad():
        for kept, now in zip(best, matrices, strict=True):
            now.copy_(kept)
    return {"steps": step, "best_step": state["at"], "seconds": round(time.monotonic() - began, 1)}


def report_figures(before: np.ndarray, after: np.ndarray, pieces: Sequence[int]) -> dict[str, Any]:
    """Losses (n,) of windows before and after; the interval of the gain is over their pieces."""
    _, low, high = over_groups(np.mean, pieces, before - after)
    return {
        "held_out_before": round(float(before.mean()), 4),
        "held_out_after": round(float(after.mean()), 4),
        "gain": round(float((before - after).mean()), 4),
        "gain_interval": [round(low, 4), round(high, 4)],
        "windows": len(before),
    }


def _write(student: Any, out: Path, facts: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write adapter_config.json, the card and, last, adapter_model.safetensors."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = student.peft_config["default"]
    written = {
        **{k: v for k, v in config.to_dict().items() if v is not None},
        "base_model_name_or_path": facts["base"],
        "revision": facts["weights"],
        "target_modules": sorted(config.target_modules),
        "inference_mode": True,
    }
    plain = json.dumps(written, indent=2, sort_keys=True, default=str) + "\n"
    _text(out / CONFIG, plain)
    _text(out / "README.md", card(facts, figures))
    state = get_peft_model_state_dict(student, save_embedding_layers=False)
    halved = {key: value.half().contiguous() for key, value in state.items()}
    with replacing(out / WEIGHTS) as fresh:
        save_file(halved, fresh, metadata={"format": "pt"})


def _text(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        Path(fresh).write_text(text, encoding="utf-8")


def _clear(checkpoint: Path) -> None:
    import shutil

    shutil.rmtree(checkpoint, ignore_errors=True)


def card(facts: dict[str, Any], figures: dict[str, Any]) -> str:
    """The model card: what it is, how it was made, what it was measured to do."""
    low, high = figures["gain_interval"]
    verdict = (
        "It knows the style better than the plain model."
        if low > 0
        else "**It is not shown to know the style better than the plain model**: give more music."
    )
    chosen = (
        "Other held-out pieces decided when to stop."
        if figures["independent"]
        else "The same held-out music decided when to stop, so the gain is flattered."
    )
    return f"""---
library_name: peft
base_model: {facts["base"]}
tags: [music, lora]
---

# A style for {facts["base"]}

A LoRA of rank {facts["rank"]} on every linear layer, trained on {figures["pieces"]} pieces
({figures["bars"]} bars) that were read from MIDI files and moved to C. Wear it with
`affect make music --lora FOLDER --lora-weight .8`.

| held-out nats a token | plain | with the style | gain (95 % interval over windows) |
|---|---|---|---|
| {figures["held"]} pieces, {figures["windows"]} windows | {figures["held_out_before"]:.3f} \
| {figures["held_out_after"]:.3f} | {figures["gain"]:.3f} ({low:.3f} to {high:.3f}) |

{verdict} {chosen}

* Recipe: `affect train lora --modality music`; {figures["steps"]} steps of {facts["batch"]} \
windows, the best was step {figures["best_step"]}; rate {facts["rate"]:g}, seed {facts["seed"]}; \
{figures["seconds"]:.0f} s.
* Belongs to the weights {facts["weights"]}; on others it is untested.
* Limits: notes only. Loudness, timing and sound are not part of a style. The licence of what it
  writes is a question of the music it was given: small sets may be quoted literally.
"""
