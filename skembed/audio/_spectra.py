"""Waveforms to log-mel spectra and cepstra.

Owns the arithmetic of the two front ends, as torch modules that have nothing to learn. Must not
know rows, files, windows of a clip nor models.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from skembed.exceptions import InvalidParameterError

__all__ = ["MFCC", "LogMel", "cosine_matrix", "mel_filters"]

# Frames worked on at once, over all clips; one needs some 7 kB. On 2 shared cores an hour of audio
# took 0.7 s with 2,048, 0.8 s with 8,192, and in one piece 2.2 s and 2.6 GB.
_N_FRAMES = 2048


class LogMel(nn.Module):
    """Logarithm of the power in mel bands, frame by frame.

    Frame t is centred on sample t * hop, with zeros before the clip and after it, so a clip of
    any length has 1 + samples // hop frames. No dither, no pre-emphasis, nothing random. Frames
    are worked on in pieces: beside its result, any length of audio needs some 15 MB.

    Parameters
    ----------
    sampling_rate : int, default=16_000
        Of the waveforms, in Hz.
    window_ms, hop_ms : float, default=25.0 and 10.0
        Length of the periodic Hann window, and from one frame to the next, in milliseconds;
        rounded to whole samples.
    n_fft : int, optional
        Points of the Fourier transform, of which the window is the middle and the rest zeros. By
        default the least power of two that holds the window: 512 at 16 kHz.
    n_mels : int, default=80
        Bands.
    scale : {"htk", "slaney"}, default="htk"
        Of pitch, see `mel_filters`.
    norm : {None, "slaney"}, default=None
        Height of the filters, see `mel_filters`.
    floor : float, default=1e-6
        Added to the power before the logarithm, for waveforms between -1 and 1.

    Attributes
    ----------
    width : int
        Values per frame.
    window, hop, n_fft : int
        In samples.

    Raises
    ------
    InvalidParameterError
        If the window is longer than `n_fft`, or `scale` or `norm` is unknown.

    References
    ----------
    S. Davis and P. Mermelstein, Comparison of parametric representations for monosyllabic word
    recognition in continuously spoken sentences, 1980. doi:10.1109/TASSP.1980.1163420

    S. Young et al., The HTK Book, version 3.4, 2006, section 5.4.

    Examples
    --------
    >>> import torch
    >>> LogMel()(torch.zeros(1, 16_000)).shape
    torch.Size([1, 101, 80])
    """

    def __init__(
        self,
        sampling_rate: int = 16_000,
        *,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        n_fft: int | None = None,
        n_mels: int = 80,
        scale: str = "htk",
        norm: str | None = None,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        self.window = max(1, round(sampling_rate * window_ms / 1000))
        self.hop = max(1, round(sampling_rate * hop_ms / 1000))
        self.n_fft = 1 << (self.window - 1).bit_length() if n_fft is None else n_fft
        if self.n_fft < self.window:
            raise InvalidParameterError(
                f"n_fft={n_fft}: the window of {window_ms} ms has {self.window} samples at "
                f"{sampling_rate} Hz. Choose n_fft={self.window} or more."
            )
        self.width, self.floor = n_mels, floor
        filters = mel_filters(self.n_fft, sampling_rate, n_mels, scale=scale, norm=norm)
        hann = torch.hann_window(self.window, periodic=True, dtype=torch.float64)
        self.filters: Tensor
        self.hann: Tensor
        self.register_buffer("filters", filters.float())
        self.register_buffer("hann", hann.float())

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-mel spectra of clips.

        Parameters
        ----------
        waveform : Tensor of shape (n, samples)
            float32, at `sampling_rate`.

        Returns
        -------
        Tensor of shape (n, 1 + samples // hop, n_mels)
            Natural logarithm of power, float32.
        """
        n, samples = waveform.shape
        n_frames = 1 + samples // self.hop
        spectra = waveform.new_empty((n, n_frames, self.width))
        step = max(1, _N_FRAMES // max(1, n))
        for first in range(0, n_frames, step):
            stop = min(first + step, n_frames)
            spectra[:, first:stop] = self._spectra(waveform, first, stop)
        return spectra

    def _spectra(self, waveform: Tensor, first: int, stop: int) -> Tensor:
        """Return the spectra of frames `first` to `stop`."""
        samples = waveform.shape[1]
        # Where the window lies in the n_fft points does not change the power, so only its own
        # samples are transformed.
        before = self.n_fft // 2 - (self.n_fft - self.window) // 2
        begin = first * self.hop - before
        end = (stop - 1) * self.hop - before + self.window
        piece = waveform[:, max(begin, 0) : min(end, samples)]
        piece = nn.functional.pad(piece, (max(-begin, 0), max(end - samples, 0)))
        frames = piece.unfold(1, self.window, self.hop) * self.hann
        spectrum = torch.view_as_real(torch.fft.rfft(frames, self.n_fft))
        return torch.log(spectrum.square().sum(-1) @ self.filters + self.floor)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: the orthonormal DCT-II of a log-mel spectrum.

    Neither liftered nor made zero-mean; coefficient 0 is the sum of the spectrum over the square
    root of `n_mels`.

    Parameters
    ----------
    sampling_rate : int, default=16_000
        Of the waveforms, in Hz.
    n_coefficients : int, default=20
        The first ones, with coefficient 0.
    **settings
        Of the spectrum, as `LogMel` has them.

    Attributes
    ----------
    width : int
        Values per frame.
    log_mel : LogMel
        What gives the spectrum.

    Raises
    ------
    InvalidParameterError
        If there are fewer bands than coefficients, or `LogMel` refuses a setting.

    References
    ----------
    S. Davis and P. Mermelstein, Comparison of parametric representations for monosyllabic word
    recognition in continuously spoken sentences, 1980. doi:10.1109/TASSP.1980.1163420

    Examples
    --------
    >>> import torch
    >>> MFCC()(torch.zeros(1, 16_000)).shape
    torch.Size([1, 101, 20])
    """

    def __init__(
        self, sampling_rate: int = 16_000, *, n_coefficients: int = 20, **settings: Any
    ) -> None:
        super().__init__()
        self.log_mel = LogMel(sampling_rate, **settings)
        self.width = n_coefficients
        self.cosines: Tensor
        self.register_buffer("cosines", cosine_matrix(self.log_mel.width, n_coefficients).float())

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the cepstra of clips.

        Parameters
        ----------
        waveform : Tensor of shape (n, samples)
            float32, at `sampling_rate`.

        Returns
        -------
        Tensor of shape (n, 1 + samples // hop, n_coefficients)
            float32.
        """
        cepstra: Tensor = self.log_mel(waveform) @ self.cosines
        return cepstra


def mel_filters(
    n_fft: int, sampling_rate: int, n_mels: int, *, scale: str = "htk", norm: str | None = None
) -> Tensor:
    """Return triangles that overlap by half, at equal steps of pitch from 0 Hz to Nyquist.

    Parameters
    ----------
    n_fft : int
        Points of the Fourier transform.
    sampling_rate : int
        In Hz.
    n_mels : int
        Triangles. One that is narrower than the transform's steps may hold none of them: its band
        is always empty.
    scale : {"htk", "slaney"}
        "htk": 2595 log10(1 + f / 700) mels, f in Hz. "slaney": linear below 1000 Hz (15 steps),
        logarithmic above (27 steps for a factor of 6.4).
    norm : {None, "slaney"}
        None: triangles have a height of 1. "slaney": an area of 1 Hz.

    Returns
    -------
    Tensor of shape (n_fft // 2 + 1, n_mels)
        float64.

    Raises
    ------
    InvalidParameterError
        If `scale` or `norm` is unknown.

    References
    ----------
    S. Young et al., The HTK Book, version 3.4, 2006, section 5.4.

    M. Slaney, Auditory Toolbox, version 2, Interval Research technical report 1998-010, 1998.
    """
    if scale not in ("htk", "slaney"):
        raise InvalidParameterError(f"scale={scale!r}: expected 'htk' or 'slaney'.")
    if norm not in (None, "slaney"):
        raise InvalidParameterError(f"norm={norm!r}: expected None or 'slaney'.")
    highest = sampling_rate / 2
    frequencies = torch.linspace(0, n_fft // 2, n_fft // 2 + 1, dtype=torch.float64)
    frequencies *= sampling_rate / n_fft
    pitches = torch.linspace(0, _to_mel(highest, scale), n_mels + 2, dtype=torch.float64)
    corners = _to_hz(pitches, scale)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters if norm is None else filters * (2 / (high - low))


def _to_mel(frequency: float, scale: str) -> float:
    """Return the pitch of a frequency in Hz."""
    if scale == "htk":
        return 2595 * math.log10(1 + frequency / 700)
    if frequency < 1000:
        return frequency * 15 / 1000
    return 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


def _to_hz(pitch: Tensor, scale: str) -> Tensor:
    """Return the frequencies of pitches, in Hz."""
    if scale == "htk":
        return 700 * (10 ** (pitch / 2595) - 1)
    return torch.where(pitch < 15, pitch * 1000 / 15, 1000 * 6.4 ** ((pitch - 15) / 27))


def cosine_matrix(n_in: int, n_out: int) -> Tensor:
    """Return the first columns of the orthonormal DCT-II.

    Parameters
    ----------
    n_in, n_out : int
        Values that are transformed, and coefficients that are kept.

    Returns
    -------
    Tensor of shape (n_in, n_out)
        float64; its columns are orthogonal and have unit length.

    Raises
    ------
    InvalidParameterError
        If more are to be kept than there are.
    """
    if not 0 < n_out <= n_in:
        raise InvalidParameterError(
            f"n_coefficients={n_out}: expected 1 to {n_in}, the number of bands."
        )
    places = (torch.arange(n_in, dtype=torch.float64) + 0.5) * (math.pi / n_in)
    cosines = torch.cos(places[:, None] * torch.arange(n_out, dtype=torch.float64))
    cosines *= math.sqrt(2 / n_in)
    cosines[:, 0] *= math.sqrt(0.5)
    return cosines
