"""Recordings made here: tones and noise as files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile


def tone(hertz: float, seconds: float = 0.3, rate: int = 8000, loud: float = 0.3) -> np.ndarray:
    """A sine (samples,)."""
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def recording(wave: np.ndarray, rate: int = 8000, format: str = "WAV", subtype: str | None = None) -> dict[str, Any]:
    """``wave`` (samples,) or (samples, channels) as a file, as records hold it."""
    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format=format, subtype=subtype)
    return {"bytes": stream.getvalue(), "path": f"made.{format.lower()}"}
