"""Recordings as log-mel frames. N recordings, T frames, M mel bands."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr

from treadle.core.layout import Layout
from treadle.data.columns import Array, Augment, Column, Numbers, ragged
from treadle.data.fields.base import BadValue, Field
from treadle.data.fields.media import parse_media
from treadle.data.mel import FLOOR, Mel
from treadle.data.record import MEDIA

_QUIET = 2.0**-15
"""A recording whose every sample is nearer to zero than the least step of 16 bits holds nothing."""
_EDGE = 0.05
"""Seconds that are read beyond the part that is wanted, so that conversion to another rate does not feel its end."""


def decode_audio(content: bytes, rate: int, seconds: float) -> Array:
    """The first ``seconds`` of a wav, flac, ogg or mp3 file -> (samples,) float32 in -1 to 1 at ``rate``, the mean of its channels.
    Raises ``BadValue``."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            own = file.samplerate
            wave = file.read(math.ceil((seconds + _EDGE) * own), dtype="float32", always_2d=True).mean(1)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise BadValue("not a recording", str(error)[:120]) from None
    if not np.isfinite(wave).all():
        raise BadValue("not a recording", "its samples are not finite")
    if own != rate and len(wave):
        wave = soxr.resample(wave, own, rate)
    wave = wave[: round(seconds * rate)]
    if not len(wave):
        raise BadValue("empty recording")
    if np.abs(wave).max() < _QUIET:
        raise BadValue("silent recording")
    return np.asarray(wave, np.float32)


def audio_seconds(content: bytes) -> float:
    """Length of a recording that ``decode_audio`` reads."""
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        return float(file.frames / file.samplerate)


class AudioField(Field):
    """Log-mel frames (T, M), ragged, float16: nearer than 0.01 for 16-bit recordings. The bytes of a record stay as they came."""

    arrow = MEDIA

    def __init__(self, name: str, settings: Any, columns: Sequence[str]) -> None:
        super().__init__(name, settings, columns)
        window, hop = (max(1, round(part * settings.rate)) for part in (settings.window, settings.hop))
        self.mel = Mel(settings.rate, settings.mels, window, hop)

    def parse(self, raw: Any) -> dict[str, Any]:
        found = parse_media(raw, "a recording")
        decode_audio(found["bytes"], self.settings.rate, self.settings.seconds)
        return found

    def remarks(self, values: Sequence[dict[str, Any]]) -> list[str]:
        longer = sum(audio_seconds(value["bytes"]) > self.settings.seconds for value in values)
        what = f"longer than {self.settings.seconds:g} s: the first part of each is read"
        return [f"{self.name!r}: {longer} of {len(values)} recordings are {what}"] if longer else []

    def fit(self, values: Sequence[dict[str, Any]]) -> None:
        count, total, square = 0, np.zeros(self.settings.mels), np.zeros(self.settings.mels)
        for value in values:
            frames = self._frames(value).astype(np.float64)
            count, total, square = count + len(frames), total + frames.sum(0), square + (frames**2).sum(0)
        mean = total / count
        deviation = np.sqrt(np.maximum(square / count - mean**2, 0.0))
        self.mean, self.deviation = mean.tolist(), np.where(deviation > 1e-3, deviation, 1.0).tolist()

    def encode(self, values: Sequence[dict[str, Any]]) -> Column:
        return ragged([self._frames(value) for value in values], np.float16, (self.settings.mels,))

    def _frames(self, value: Mapping[str, Any]) -> Array:
        return self.mel(decode_audio(value["bytes"], self.settings.rate, self.settings.seconds))

    def change(self, seed: int) -> Augment | None:
        wanted = self.settings.augment
        if not (wanted.noise or wanted.shift or wanted.mask):
            return None
        shift = round(wanted.shift * self.settings.rate / self.mel.hop)
        mean = np.array(self.mean)

        def one(frames: Array, number: int) -> Array:
            draw = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(number,))))
            by, share = int(draw.integers(-shift, shift + 1)), float(draw.uniform(0, wanted.noise))
            time, band = _mask(len(frames), wanted.mask, draw), _mask(frames.shape[1], wanted.mask, draw)
            frames = _shifted(frames, by)[: self.layout.length]
            if share:
                frames = self.mel.add_noise(frames, share, draw)
            frames = frames.astype(np.float16)
            frames[time] = mean
            frames[:, band] = mean[band]
            return frames

        def change(values: Array, lengths: Numbers | None, numbers: Numbers) -> tuple[Array, Numbers | None]:
            assert lengths is not None
            rows = [one(row[:length], int(n)) for row, length, n in zip(values, lengths, numbers, strict=True)]
            return ragged(rows, np.float16, (self.settings.mels,)).rows(np.arange(len(rows)))

        return change

    @property
    def layout(self) -> Layout:
        length = self.mel.frames(round(self.settings.seconds * self.settings.rate))
        mean, deviation = tuple(self.mean), tuple(self.deviation)
        return Layout("audio", length=length, channels=self.settings.mels, mean=mean, deviation=deviation)

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = list(state["mean"]), list(state["deviation"])


def _mask(count: int, most: float, draw: np.random.Generator) -> slice:
    """A stretch of at most the share ``most`` of ``count``, anywhere (Park et al. 2019, section 2)."""
    width = int(draw.integers(0, int(most * count) + 1))
    start = int(draw.integers(0, count - width + 1))
    return slice(start, start + width)


def _shifted(frames: Array, by: int) -> Array:
    """Later, with silence before it, or earlier, without its beginning."""
    if by >= 0:
        return np.concatenate([np.full((by, frames.shape[1]), math.log(FLOOR), frames.dtype), frames])
    return frames[min(-by, len(frames) - 1) :]
