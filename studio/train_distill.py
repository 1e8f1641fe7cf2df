"""`affect train distill`: what a critic prefers, learned by a LoRA.

    affect train distill --backbone DIR --emotion sadness --rounds 2 --n 4 --out sliders/

The recipe is training.distill, its knobs training.config_distill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.ledger import write_atomic
from studio.console import note, result
from studio.train import Config, DryRun, Json, Resume, _told, _training
from training import recipes
from training.config import as_toml, core_emotions, read, source_of
from training.config_distill import Distill


def distill(
    *,
    config: Config = None,
    dry_run: DryRun = False,
    resume: Resume = None,
    as_json: Json = False,
    params: dict[str, Any],
) -> int:
    """Paint N, keep what the critic prefers and learn it; then DiffusionNFT on all of them.

    Example: affect train distill --backbone image-tiny --emotion sadness --rounds 2 --n 4
    """
    settings = read(Distill, source_of(config), params)
    emotions = core_emotions(settings.emotion, "emotion")
    row = recipes.backbone_of(settings.backbone, "image")
    out = recipes.out_of(settings.out, "distill", row)
    with _training(offline=False):
        from training.distill import check_resume, distill, prompts_of

        check_resume(resume)
        if dry_run:
            words = recipes.vocabulary_of("", row)
            plan = _planned(settings, prompts_of(settings.prompts, words), len(emotions))
    if dry_run:
        note(f"{plan} -> {out}, nothing is painted")
        result(as_toml(settings).rstrip())
        return 0
    with _training(offline=False):
        from pipelines.painter import Painter

        painter = Painter.load(row, device=settings.device or None)
        figures = distill(
            painter, settings, out, base=row.name, resume=resume is not None, tell=note
        )
        write_atomic(out / recipes.SETTINGS, as_toml(settings).encode())
    return _told(figures, out, as_json=as_json)


def _planned(settings: Distill, prompts: Sequence[str], adapters: int) -> str:
    """What a run would paint, for people."""
    unseen = len(prompts) // 4
    learned = len(prompts) - unseen
    pictures = learned * (1 + (settings.rounds + settings.nft_rounds) * settings.n)
    return (
        f"{adapters} adapters, each from {pictures} pictures of {learned} prompts and judged on "
        f"{unseen} others"
    )
