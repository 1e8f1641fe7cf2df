"""Where the data folder is.

The one place that knows. In a checkout `assets/` lies beside `adapters/`; a wheel installs it
beside them as well (pyproject.toml, package-data), so one rule serves both. It deliberately does
not know what is inside: each table and each model is read by the file that uses it.
"""

from __future__ import annotations

from pathlib import Path

ASSETS: Path = Path(__file__).resolve().parent.parent / "assets"
"""The `assets` folder (tables, embedded models, samples). Read only: nothing is written here."""
