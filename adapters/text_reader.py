"""Free text read by any transformers text-classification model, by hub name or folder.

The model's labels are mapped to core emotions by the lexicon; a label that no table knows is
refused by name instead of being dropped. Safetensors only, no code from the hub. torch and
transformers are imported on first use. It does not know which models are good.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

from adapters.emotion import CORE, Emotion, EmotionError
from adapters.lexicon import look_up

MOST_TOKENS = 512
# Labels of sentiment models and remainders of emotion models that are no emotion words themselves.
_SHORT_LABELS = {"pos": "positive", "neg": "negative", "neu": "neutral", "label_neutral": "neutral"}


def read_with_model(text: str, reader: str) -> Emotion:
    """One pass of the model over the text; the expected mixture of its labels.

    reader: hub name or folder with config, tokenizer and safetensors weights. Softmax over labels,
    or independent sigmoids scaled down where they add up to more than 1. Raises EmotionError where
    the model cannot be loaded or a label cannot be mapped.
    """
    if not text.strip():
        msg = "emotion: expected a text to read, received an empty one; write a sentence"
        raise EmotionError(msg)
    import torch

    model, tokenizer = _load(reader)
    table = label_mixtures(reader, list(model.config.id2label.values()))
    limit = min(MOST_TOKENS, int(getattr(tokenizer, "model_max_length", MOST_TOKENS)))
    batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
    with torch.inference_mode():
        logits = model(**batch).logits[0].double()
    if model.config.problem_type == "multi_label_classification":
        p = torch.sigmoid(logits).numpy()
        p = p / max(1.0, float(p.sum()))
    else:
        p = torch.softmax(logits, dim=-1).numpy()
    return Emotion._of_state(p @ table)


def label_mixtures(reader: str, labels: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(labels, 15) states: intensities and residual of every label of a classifier."""
    rows, unknown = [], []
    for label in labels:
        name = re.sub(r"[^a-z/&' -]+", " ", label.lower().replace("_", " ")).strip()
        found = look_up(_SHORT_LABELS.get(name, name))
        if found is None:
            unknown.append(label)
        else:
            rows.append(np.append(*found))
    if unknown:
        shown = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        msg = (
            f"reader {reader}: labels cannot be mapped to emotions: {shown}; use a model whose "
            "labels are emotion words, or rename them in id2label of its config.json"
        )
        raise EmotionError(msg)
    return np.array(rows).reshape(len(labels), len(CORE) + 3)


@lru_cache(maxsize=1)
def _load(reader: str) -> tuple[Any, Any]:
    """Model and tokenizer; the last one stays loaded."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(reader, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            reader, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        msg = (
            f"reader {reader}: cannot be loaded as a text-classification model with safetensors "
            f"weights ({reason}); give a folder that holds one, or pull it while online: "
            f"hf download {reader}"
        )
        raise EmotionError(msg) from error
    return model.eval(), tokenizer
