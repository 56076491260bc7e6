"""Log-mel and MFCC front ends (torch modules with nothing to learn) and their statistics."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skembed._backbone import Source
from skembed.audio._backbone import AudioBackbone, AudioSettings
from skembed.audio._clips import Part

__all__ = ["BASELINES", "MFCC", "BaselineBackbone", "LogMel"]

_RATE, _WINDOW, _HOP, _N_FFT = 16_000, 400, 160, 512
"""In Hz and samples: windows of 25 ms every 10 ms."""

_FLOOR = 1e-6
"""Added to the power before the logarithm, for waveforms between -1 and 1."""

# Frames worked on at once, over all clips; one needs some 7 kB. On 2 shared cores an hour of audio
# took 0.7 s with 2,048, 0.8 s with 8,192, and in one piece 2.2 s and 2.6 GB.
_N_FRAMES = 2048


class LogMel(nn.Module):
    """Logarithm of the power in mel bands of waveforms at 16 kHz, frame by frame.

    Frame t is centred on sample 160 t, with zeros around the clip. Windows are Hann's. No dither,
    no pre-emphasis. See Davis and Mermelstein, 1980, doi:10.1109/TASSP.1980.1163420.
    """

    def __init__(self, *, n_mels: int = 80) -> None:
        super().__init__()
        self.width = n_mels
        self.filters: Tensor
        self.hann: Tensor
        self.register_buffer("filters", _mel_filters(n_mels).float())
        self.register_buffer("hann", torch.hann_window(_WINDOW, dtype=torch.float64).float())

    def forward(self, waveform: Tensor) -> Tensor:
        """Map waveforms (n, samples) to spectra (n, 1 + samples // 160, n_mels)."""
        n, samples = waveform.shape
        n_frames = 1 + samples // _HOP
        spectra = waveform.new_empty((n, n_frames, self.width))
        step = max(1, _N_FRAMES // max(1, n))
        for first in range(0, n_frames, step):
            stop = min(first + step, n_frames)
            spectra[:, first:stop] = self._spectra(waveform, first, stop)
        return spectra

    def _spectra(self, waveform: Tensor, first: int, stop: int) -> Tensor:
        """Return the spectra of frames `first` to `stop`."""
        samples = waveform.shape[1]
        # Where the window lies in the points of the transform does not change the power, so only
        # its own samples are transformed.
        begin = first * _HOP - _WINDOW // 2
        end = (stop - 1) * _HOP + _WINDOW // 2
        piece = waveform[:, max(begin, 0) : min(end, samples)]
        piece = nn.functional.pad(piece, (max(-begin, 0), max(end - samples, 0)))
        frames = piece.unfold(1, _WINDOW, _HOP) * self.hann
        spectrum = torch.view_as_real(torch.fft.rfft(frames, _N_FFT))
        return torch.log(spectrum.square().sum(-1) @ self.filters + _FLOOR)


class MFCC(nn.Module):
    """The first 20 mel-frequency cepstral coefficients: orthonormal DCT-II of 80 log-mel bands.

    Neither liftered nor made zero-mean.
    """

    width = 20

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.cosines: Tensor
        self.register_buffer("cosines", _cosine_matrix(self.log_mel.width, self.width).float())

    def forward(self, waveform: Tensor) -> Tensor:
        """Map waveforms (n, samples) to cepstra (n, 1 + samples // 160, 20)."""
        cepstra: Tensor = self.log_mel(waveform) @ self.cosines
        return cepstra


def _mel_filters(n_mels: int) -> Tensor:
    """Return triangles of height 1 that overlap by half, at equal steps of pitch up to 8 kHz.

    Of shape (n_fft // 2 + 1, n_mels), float64. Pitch is HTK's: 2595 log10(1 + f / 700) mels.
    """
    frequencies = torch.linspace(0, _RATE / 2, _N_FFT // 2 + 1, dtype=torch.float64)
    highest = 2595 * math.log10(1 + _RATE / 2 / 700)
    pitches = torch.linspace(0, highest, n_mels + 2, dtype=torch.float64)
    corners = 700 * (10 ** (pitches / 2595) - 1)
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _cosine_matrix(n_in: int, n_out: int) -> Tensor:
    """Return the first columns of the orthonormal DCT-II, (n_in, n_out), float64."""
    places = (torch.arange(n_in, dtype=torch.float64) + 0.5) * (math.pi / n_in)
    cosines = torch.cos(places[:, None] * torch.arange(n_out, dtype=torch.float64))
    cosines *= math.sqrt(2 / n_in)
    cosines[:, 0] *= math.sqrt(0.5)
    return cosines


BASELINES = {"logmel": LogMel, "mfcc": MFCC}


class BaselineBackbone(AudioBackbone):
    """Mean and standard deviation over time of 80 log-mel bands, or of 20 MFCC.

    Clips stay whole: deviations within windows are not those of the clip.
    """

    float32_on = ("cpu", "cuda", "mps")
    window = None

    def __init__(self, source: Source, settings: AudioSettings) -> None:
        self.name, self.source = source.name, source
        why = f"{self.name!r} has no weights, layers or revisions. Leave it at its default."
        settings.refuse(weights=why, layer=why, revision=why)
        self._take_pooling(settings.pooling, BASELINES[self.name]().width, "mean+std")
        self._take_digests(name=self.name)

    def _prepare(self, samples: NDArray[np.float32]) -> Part:
        return Part(torch.from_numpy(samples))

    def _load_core(self) -> nn.Module:
        module: nn.Module = BASELINES[self.name]()
        return module.eval()
