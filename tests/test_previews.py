"""Previews of pictures that are being painted: there, small, cheap, and without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.emotion import Emotion, EmotionTimeline
from pipelines import Step, generate, previews
from pipelines.image import ImageParams
from pipelines.painter import Painter, Sitting
from pipelines.previews import previewed, sheet
from pipelines.take import Request, Take
from tests.tiny import CALL, tiny

SITTINGS = [Sitting("the sea", Emotion.parse("fear .8"), seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "qwen-image"])
def test_every_family_is_seen_and_not_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "SHARE", 1e9)
    ours = ("height", "width", "num_inference_steps", "output_type")
    call = {k: v for k, v in CALL[name].items() if k not in ours}
    painter = Painter(tiny(name), name, call=call)
    params = ImageParams(width=32, height=32, steps=4, directions=False)
    plain = painter.paint(SITTINGS, params)
    seen: list[Image.Image] = []
    shown = painter.paint(SITTINGS, params, on_preview=seen.append)
    assert len(seen) == 2  # neither the first step, a blur, nor the last, which shows itself
    assert seen[0].size == (64, 64)  # three of them, two in a row
    for one, other in zip(plain, shown, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert "step" not in vars(painter.pipe.scheduler)


def test_the_shipped_painter_shows_what_it_becomes(tmp_path) -> None:
    asked = Request(
        "image", "the sea", EmotionTimeline.parse("sadness .8"), 7, "image-tiny", {}, {}
    )
    options = {"critic": None, "reader": None, "offline": True}
    shown = list(generate(asked, out_dir=tmp_path / "a", previews=True, **options))
    plain = list(generate(asked, out_dir=tmp_path / "b", **options))
    pictures = [one.preview for one in shown if isinstance(one, Step) and one.preview is not None]
    assert pictures
    assert not any(isinstance(one, Step) and one.preview is not None for one in plain)
    takes = [one for one in (shown[-1], plain[-1]) if isinstance(one, Take)]
    finished = [np.asarray(Image.open(take.path), dtype=float) for take in takes]
    assert np.array_equal(*finished)
    # The last preview is nearer to the picture than the mean of its colours is.
    small = Image.open(takes[0].path).resize(pictures[-1].size)
    target = np.asarray(small, dtype=float)
    last = np.asarray(pictures[-1], dtype=float)
    assert np.abs(last - target).mean() < 0.5 * np.abs(target.mean((0, 1)) - target).mean()


def test_a_run_can_be_ended_by_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "SHARE", 1e9)
    painter = Painter(tiny("sd15"), "sd15")

    def enough(_: Image.Image) -> None:
        raise KeyboardInterrupt

    params = ImageParams(width=32, height=32, steps=4, directions=False)
    with pytest.raises(KeyboardInterrupt):
        painter.paint(SITTINGS, params, on_preview=enough)
    assert "step" not in vars(painter.pipe.scheduler)


def test_a_pipeline_that_cannot_be_looked_into_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(previews, "SHARE", 1e9)
    pipe = tiny("sd15")
    pipe.vae.to(dtype=torch.float16).register_to_config(force_upcast=True)
    seen: list[Image.Image] = []
    with previewed(pipe, (32, 32), seen.append):
        result = pipe("the sea", num_inference_steps=3, height=32, width=32, output_type="latent")
    assert torch.isfinite(result.images).all()
    assert seen == []


def test_a_sheet_has_two_in_a_row() -> None:
    one = Image.new("RGB", (10, 6))
    assert sheet([one]).size == (10, 6)
    assert sheet([one] * 2).size == (20, 6)
    assert sheet([one] * 3).size == (20, 12)
