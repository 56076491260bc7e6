"""Log-mel spectra and cepstra in float64 NumPy, one frame, one filter, one bin at a time.

Written from the formulae; knows nothing of skembed.
"""

import math

import numpy as np


def to_mel(frequency, scale):
    if scale == "htk":
        return 2595 * math.log10(1 + frequency / 700)
    if frequency < 1000:
        return 3 * frequency / 200
    return 15 + 27 * math.log(frequency / 1000, 6.4)


def to_hz(mel, scale):
    if scale == "htk":
        return 700 * 10 ** (mel / 2595) - 700
    return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def filters(n_fft, sampling_rate, n_mels, scale, norm):
    """Return (n_mels, n_fft // 2 + 1)."""
    top = to_mel(sampling_rate / 2, scale)
    corners = [to_hz(top * i / (n_mels + 1), scale) for i in range(n_mels + 2)]
    bank = np.zeros((n_mels, n_fft // 2 + 1))
    for band in range(n_mels):
        low, centre, high = corners[band : band + 3]
        for k in range(n_fft // 2 + 1):
            frequency = k * sampling_rate / n_fft
            if low < frequency <= centre:
                bank[band, k] = (frequency - low) / (centre - low)
            elif centre < frequency < high:
                bank[band, k] = (high - frequency) / (high - centre)
        if norm == "slaney":
            bank[band] *= 2 / (high - low)
    return bank


def power_mel(samples, sampling_rate, window, hop, n_fft, n_mels, scale, norm):
    """Return (frames, n_mels) of one clip; window, hop and n_fft in samples."""
    samples = np.asarray(samples, np.float64)
    bank = filters(n_fft, sampling_rate, n_mels, scale, norm)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / window) for i in range(window)]
    rows = []
    for centre in range(0, len(samples) + 1, hop):
        frame = np.zeros(n_fft)
        for i in range(window):
            place = (n_fft - window) // 2 + i
            at = centre - n_fft // 2 + place
            if 0 <= at < len(samples):
                frame[place] = samples[at] * hann[i]
        rows.append(bank @ np.abs(np.fft.rfft(frame)) ** 2)
    return np.array(rows)


def log_mel(
    samples,
    sampling_rate=16_000,
    window=400,
    hop=160,
    n_fft=512,
    n_mels=80,
    scale="htk",
    norm=None,
):
    return np.log(power_mel(samples, sampling_rate, window, hop, n_fft, n_mels, scale, norm) + 1e-6)


def dct(values, n_out):
    """Return the first coefficients of the orthonormal DCT-II of each row."""
    n = values.shape[1]
    result = np.zeros((len(values), n_out))
    for k in range(n_out):
        scale = math.sqrt((1 if k == 0 else 2) / n)
        for i in range(n):
            result[:, k] += scale * values[:, i] * math.cos(math.pi * k * (2 * i + 1) / (2 * n))
    return result
