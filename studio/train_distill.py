"""`affect train distill`: what a critic prefers, learned by a LoRA.

    affect train distill --backbone DIR --emotion sadness --rounds 2 --n 4 --out sliders/

The recipe is training.distill, its knobs training.config_distill.
"""

from __future__ import annotations

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
            prompts = prompts_of(settings.prompts, words)
            learned = len(prompts) - len(prompts) // 4
            rounds = settings.rounds + settings.nft_rounds
            pictures = learned * (1 + rounds * settings.n)
            note(
                f"{len(emotions)} adapters, each from {pictures} pictures of {learned} prompts and "
                f"judged on {len(prompts) // 4} others -> {out}, nothing is painted"
            )
            result(as_toml(settings).rstrip())
            return 0
        from pipelines.painter import Painter

        painter = Painter.load(row, device=settings.device or None)
        figures = distill(
            painter, settings, out, base=row.name, resume=resume is not None, tell=note
        )
        write_atomic(out / recipes.SETTINGS, as_toml(settings).encode())
    return _told(figures, out, as_json=as_json)
