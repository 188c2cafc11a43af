"""A reasoning model small enough to ship, and the problems it was trained on."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """Returns the directory of the bundled model, in Hugging Face format, made by recipes/tiny_reasoner."""
    return Path(__file__).parent / "model"
