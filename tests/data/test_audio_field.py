"""Recordings against a float64 reference: what is read, how it is heard, what cannot be read, how it is changed."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sounds import recording, tone
from treadle.core.layout import Layout
from treadle.data.fields.audio import AudioField, decode_audio
from treadle.data.fields.base import BadValue
from treadle.data.mel import FLOOR, Mel, mel_bands
from treadle.data.record import content_id
from treadle.spec.inputs import Audio

NOISE = np.random.default_rng(0).normal(0, 0.1, 5000)


def field(**settings: object) -> AudioField:
    return AudioField("speech", Audio.model_validate(settings), ["speech"])


def slow_log_mel(wave: np.ndarray, rate: int, mels: int, window: int, hop: int, points: int) -> np.ndarray:
    """One term at a time, as the definitions stand in the HTK Book, sections 5.2 and 5.4."""
    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    top, rows = mel(rate / 2), []
    for start in range(0, len(wave) - window + 1, hop):
        frame = [wave[start + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / window)) for n in range(window)]
        energies = [0.0] * mels
        for k in range(points // 2 + 1):
            power = abs(sum(x * np.exp(-2j * np.pi * k * n / points) for n, x in enumerate(frame))) ** 2
            hertz = k * rate / points
            for m in range(mels):
                low, centre, high = (700 * (10 ** (top * (m + i) / (mels + 1) / 2595) - 1) for i in range(3))
                if low < hertz < high:
                    energies[m] += power * ((hertz - low) / (centre - low) if hertz <= centre else (high - hertz) / (high - centre))
        rows.append([math.log(max(energy, FLOOR)) for energy in energies])
    return np.array(rows)


def test_frames_are_the_definition():
    wave = np.concatenate([tone(440, 0.02), NOISE[:300], np.zeros(64)])
    mel = Mel(8000, 12, window=60, hop=25)
    assert mel.points == 64
    slow = slow_log_mel(wave, 8000, 12, 60, 25, 64)
    assert mel(wave).shape == slow.shape == (mel.frames(len(wave)), 12)
    assert np.allclose(mel(wave), slow, atol=1e-5)
    assert slow.min() == math.log(FLOOR)


@given(st.integers(1000, 48_000), st.integers(4, 256), st.integers(16, 2000))
def test_every_band_hears_something_and_neighbours_share_what_lies_between(rate: int, mels: int, window: int):
    mel = Mel(rate, mels, window, hop=window)
    assert (mel.bands.sum(0) > 0).all()
    assert mel.points >= window
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), mels + 2) / 2595) - 1)
    inside = np.linspace(0, rate / 2, mel.points // 2 + 1)
    inside = (inside >= edges[1]) & (inside <= edges[-2])
    assert np.allclose(mel.bands.sum(1)[inside], 1.0)


@given(st.integers(0, 5000), st.sampled_from([(200, 80), (64, 64), (17, 3)]))
def test_frames_are_counted_as_they_are_made(samples: int, sizes: tuple[int, int]):
    mel = Mel(8000, 8, *sizes)
    assert len(mel(NOISE[:samples])) == mel.frames(samples)


def test_a_tone_is_heard_in_its_band():
    audio = field()
    for hertz in (200, 700, 1500, 3000):
        frames = audio.encode([audio.parse(recording(tone(hertz)))]).values
        band = frames.mean(0).argmax()
        weights = mel_bands(8000, 40, 4096)[:, band]
        assert abs(np.linspace(0, 4000, 2049)[weights.argmax()] - hertz) < 0.06 * hertz + 20


@pytest.mark.parametrize(("format", "subtype", "near"), [
    ("WAV", "PCM_16", 2e-4), ("WAV", "PCM_24", 1e-5), ("WAV", "FLOAT", 1e-6), ("WAV", "ULAW", 0.02), ("FLAC", "PCM_16", 2e-4),
    ("OGG", "VORBIS", 0.05),
])
def test_what_files_hold_is_read(format: str, subtype: str, near: float):
    wave = tone(500, 0.2)
    read = decode_audio(recording(wave, format=format, subtype=subtype)["bytes"], 8000, 1.0)
    assert len(read) == len(wave)
    assert np.abs(read - wave)[200:-200].max() < near


def test_channels_are_mixed_and_rates_converted():
    wave = tone(500, 0.3, rate=44_100)
    both = np.stack([wave, np.zeros_like(wave)], 1)
    read = decode_audio(recording(both, rate=44_100)["bytes"], 8000, 1.0)
    assert len(read) == pytest.approx(2400, abs=1)
    expected = 0.5 * tone(500, 0.3)
    assert np.abs(read[100:-100] - expected[100 : len(read) - 100]).max() < 2e-3


@pytest.mark.parametrize("rate", [8000, 16_000, 11_025])
def test_of_a_long_recording_the_first_part_is_read(rate: int):
    wave = np.concatenate([tone(500, 0.5, rate), tone(2000, 0.5, rate)])
    part = decode_audio(recording(wave, rate, subtype="FLOAT")["bytes"], 8000, 0.5)
    whole = decode_audio(recording(wave, rate, subtype="FLOAT")["bytes"], 8000, 2.0)
    assert len(part) == 4000
    assert np.abs(part - whole[:4000]).max() < 1e-4
    long, short = recording(wave, rate), recording(wave[: len(wave) // 4], rate)
    said = "'speech': 1 of 2 recordings are longer than 0.5 s: the first part of each is read"
    assert field(seconds=0.5).remarks([long, short]) == [said]
    assert field(seconds=1.0).remarks([long, short]) == []


def damaged() -> dict[str, tuple[object, str]]:
    whole = recording(tone(440))["bytes"]
    nan = recording(np.array([0.1, np.nan, 0.1] * 100), subtype="FLOAT")["bytes"]
    return {
        "nothing": (None, "no recording"), "no bytes": (b"", "empty recording"), "no text": ("", "empty recording"),
        "no frames": (recording(np.zeros(0)), "empty recording"), "silent": (recording(np.zeros(800)), "silent recording"),
        "noise": (b"RIFF" + bytes(100), "not a recording"), "header alone": (whole[:20], "not a recording"),
        "not base64": ("hello world!", "not a recording"), "not finite": (nan, "not a recording"),
        "a number": ({"bytes": 5}, "not a recording"), "a link": ("http://x/a.wav,b", "not a recording"),
        "a picture": ("data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n" + bytes(99)).decode(), "not a recording"),
    }


@pytest.mark.parametrize("name", damaged())
def test_what_cannot_be_heard_says_why(name: str):
    raw, reason = damaged()[name]
    with pytest.raises(BadValue) as caught:
        field().parse(raw)
    assert caught.value.reason == reason


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(tail: bytes, cut: int):
    whole = recording(tone(440, 0.02))["bytes"]
    reasons = {"not a recording", "empty recording", "silent recording"}
    for raw in (tail, whole[:cut] + tail):
        try:
            found = field().parse(raw)["bytes"]
        except BadValue as error:
            reasons.add(error.reason)
        else:
            assert found == raw
    assert len(reasons) == 3


def test_requests_send_base64_and_the_bytes_stay():
    given_ = recording(tone(440), format="FLAC")
    text = base64.b64encode(given_["bytes"]).decode()
    forms = (given_, given_["bytes"], text, f"data:audio/flac;base64,{text}", text[:40] + "\n" + text[40:])
    parsed = [field().parse(raw) for raw in forms]
    assert {row["bytes"] for row in parsed} == {given_["bytes"]}
    assert len({content_id({"speech": row}) for row in parsed[1:]}) == 1


def test_statistics_are_those_of_all_frames_and_are_kept():
    values = [recording(tone(300)), recording(NOISE[:3000]), recording(tone(900, 0.1, loud=0.05))]
    made = field(mels=20)
    made.fit(values)
    frames = made.encode(values).values.astype(np.float64)
    assert np.allclose(made.mean, frames.mean(0), atol=0.01)
    assert np.allclose(made.deviation, frames.std(0), atol=0.01)
    again = field(mels=20)
    again.restore(made.state())
    assert again.layout == made.layout == Layout(
        "audio", length=made.mel.frames(8000), channels=20, mean=tuple(made.mean), deviation=tuple(made.deviation)
    )


def changed(audio: AudioField, values: list[dict], numbers: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    audio.fit(values)
    change = audio.change(seed)
    assert change is not None
    out, lengths = change(*audio.encode(values).rows(np.arange(len(values))), np.array(numbers))
    assert lengths is not None
    return out.astype(np.float64), lengths


def test_no_change_is_asked_for_unless_it_is():
    assert field().change(0) is None


def test_a_change_follows_from_seed_and_number_alone():
    audio = field(augment={"noise": 0.3, "shift": "50 ms", "mask": 0.3})
    values = [recording(tone(300)), recording(NOISE[:2000])]
    together, lengths = changed(audio, values, [7, 8])
    alone, length = changed(audio, values[1:], [8])
    audio.fit(values)
    again, _ = changed(audio, values, [7, 8])
    assert np.array_equal(together, again)
    assert length[0] == lengths[1]
    other, _ = changed(audio, values, [9, 8])
    assert not np.array_equal(other[0][:10], together[0][:10])
    seeded, _ = changed(audio, values, [7, 8], seed=1)
    assert not np.array_equal(seeded[0][:10], together[0][:10])
    assert alone.shape[1] == length[0]


def test_noise_is_as_if_it_had_been_in_the_recording():
    """Mean and deviation of each band's energy, against white noise that is added to the waveform."""
    wave = np.concatenate([tone(440, 0.2), tone(1800, 0.2, loud=0.1), NOISE[:1600] * 0.02])
    mel, draw = Mel(8000, 20, 200, 80), np.random.default_rng(1)
    logs, share = mel(wave), 0.4
    real = np.stack([mel(wave + draw.normal(0, share * wave.std(), len(wave))) for _ in range(400)])
    ours = np.stack([mel.add_noise(logs, share, draw) for _ in range(400)])
    # The frames' own tapered power is not the whole recording's: within a tenth of a natural logarithm's unit.
    assert np.abs(real.mean(0) - ours.mean(0)).mean() < 0.06
    assert np.abs(real.mean(0) - ours.mean(0)).max() < 0.25
    assert np.abs(real.std(0) / ours.std(0) - 1).mean() < 0.12
    assert (ours.mean(0) - logs).max() > 1


def test_shifts_move_by_frames_within_the_bound():
    audio = field(seconds=0.4, augment={"shift": "100 ms"})
    value = recording(np.concatenate([NOISE[:2400]]))
    plain = audio.encode([value]).values.astype(np.float64)
    seen = set()
    for number in range(60):
        out, lengths = changed(audio, [value], [number])
        by = int(lengths[0]) - len(plain)
        if by > 0:
            assert np.allclose(out[0][:by], math.log(FLOOR), atol=0.01)
            later = len(out[0]) - by
            assert np.array_equal(out[0][by:], plain[:later])
        else:
            assert np.array_equal(out[0], plain[-by:])
        seen.add(by)
        assert len(out[0]) <= audio.layout.length
    assert min(seen) == -10
    assert max(seen) == min(10, audio.layout.length - len(plain))


def test_masks_are_the_mean_and_no_larger_than_asked():
    audio = field(mels=20, augment={"mask": 0.25})
    value = recording(NOISE[:4000])
    plain = audio.encode([value]).values.astype(np.float64)
    widths = set()
    for number in range(60):
        out = changed(audio, [value], [number])[0][0]
        mean = np.broadcast_to(np.array(audio.mean), out.shape)
        frames, bands = (np.isclose(out, mean, atol=0.01).all(axis) for axis in (1, 0))
        masked = frames[:, None] | bands[None]
        assert np.array_equal(out[~masked], plain[~masked])
        for kind in (frames, bands):
            assert np.abs(np.diff(np.concatenate([[0], kind, [0]]))).sum() in (0, 2), "one stretch"
        widths.add((int(frames.sum()), int(bands.sum())))
    assert max(width for width, _ in widths) == len(plain) // 4
    assert max(width for _, width in widths) == 5
    assert min(width for width, _ in widths) == 0
