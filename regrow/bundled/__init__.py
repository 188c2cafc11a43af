"""A reasoning model small enough to ship, and the problems it was trained on."""

from __future__ import annotations

from pathlib import Path


def model_path() -> Path:
    """The bundled model's directory, in Hugging Face format; made by recipes/tiny_reasoner."""
    return Path(__file__).parent / "model"
