"""Log-mel spectrograms. N samples, T frames, K bins of the spectrum, M mel bands."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from treadle.data.columns import Array

FLOOR = 1e-7
"""Least energy of a band, about that of 16-bit rounding over a whole frame, so that silence has a logarithm."""
_FRAMES = 4096  # frames at once, so that a long recording's spectrum does not fill the memory


class Mel:
    """Frames of ``window`` samples, ``hop`` apart, in ``mels`` triangular bands from 0 to half of ``rate``, equally wide in mel:
    2595 log10(1 + f / 700) (O'Shaughnessy 1987, as in the HTK Book, section 5.4).

    The spectrum has as many points as a power of two needs to cover the window, and to give every band one at least.
    """

    def __init__(self, rate: int, mels: int, window: int, hop: int) -> None:
        self.window, self.hop = window, hop
        self.taper = np.hanning(window + 1)[:-1]  # periodic, as spectral analysis wants it
        self.points = 1 << (window - 1).bit_length()
        self.bands = mel_bands(rate, mels, self.points)
        while not self.bands.any(0).all():
            self.points *= 2
            self.bands = mel_bands(rate, mels, self.points)

    def frames(self, samples: int) -> int:
        """Frames of a recording of ``samples``: those that lie in it whole, and one at least."""
        return 1 + max(0, samples - self.window) // self.hop

    def __call__(self, wave: Array) -> Array:
        """(N,) in -1 to 1 -> (T, M) float32: the logarithm of each band's energy."""
        short = self.window - len(wave)
        wave = np.pad(wave, (0, short)) if short > 0 else wave
        cut = np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop]  # (T, window)
        found = np.empty((len(cut), self.bands.shape[1]), np.float32)
        for start in range(0, len(cut), _FRAMES):
            spectrum = np.fft.rfft(cut[start : start + _FRAMES] * self.taper, self.points)  # (T, K)
            energy = (spectrum.real**2 + spectrum.imag**2) @ self.bands
            found[start : start + _FRAMES] = np.log(np.maximum(energy, FLOOR))
        return found

    @cached_property
    def degrees(self) -> Array:
        """(M,): half the degrees of freedom of each band's energy in white noise, by its first two moments (Welch 1967)."""
        square = self.taper**2
        related = np.abs(np.fft.fft(square, self.points) / square.sum()) ** 2  # of bins by how far apart they are
        apart = np.abs(np.subtract.outer(np.arange(len(self.bands)), np.arange(len(self.bands))))
        spread = np.einsum("km,kj,jm->m", self.bands, related[apart], self.bands, optimize=True)
        found: Array = self.bands.sum(0) ** 2 / spread
        return found

    def add_noise(self, logs: Array, share: float, draw: np.random.Generator) -> Array:
        """(T, M) of a recording -> of the same recording with white noise of ``share`` of its own deviation: the energy of a band
        that holds a signal and Gaussian noise follows a noncentral chi-square distribution."""
        energy = np.exp(logs.astype(np.float64))
        deviation = 2 * energy.sum(1).mean() / self.points  # Parseval: of both halves of the spectrum
        noise = np.maximum(share**2 * deviation * self.bands.sum(0), 1e-30)  # (M,)
        halves = self.degrees
        drawn = draw.noncentral_chisquare(2 * halves, 2 * halves * energy / noise)
        noisy: Array = np.log(np.maximum(drawn * noise / (2 * halves), FLOOR))
        return noisy


def mel_bands(rate: int, mels: int, points: int) -> Array:
    """(K, M) float64: each band's weights, rising from the centre of the one below to 1 and falling to that of the one above."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)  # Hz
    frequencies = np.linspace(0, rate / 2, points // 2 + 1)[:, None]  # (K, 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    weights: Array = np.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre)).clip(0)
    return weights
