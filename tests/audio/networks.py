"""A small network of waveforms, and clips of several lengths."""

import numpy as np
import soundfile
import torch
from torch import nn

RATE = 16_000


class TinyNetwork(nn.Module):
    """Two convolutions, the first with group normalisation over time, as in wav2vec 2.0."""

    def __init__(self, width=6, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv1d(1, 8, 10, 5)
        self.norm = nn.GroupNorm(8, 8)
        self.second = nn.Conv1d(8, width, 8, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, samples):
        """Map (n, samples) to frames (n, frames, width)."""
        hidden = torch.relu(self.norm(self.first(samples[:, None])))
        return torch.tanh(self.second(hidden)).transpose(1, 2)


def clips(n, seed=0, lengths=(800, 1200, 1000, 800)):
    """Return float32 clips of noise and tones, of several lengths."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        t = np.arange(lengths[i % len(lengths)]) / RATE
        tone = np.sin(2 * np.pi * random.uniform(100, 4000) * t)
        found.append((0.3 * tone + 0.05 * random.normal(size=len(t))).astype(np.float32))
    return found


def pairs(n, seed=0):
    """Return clips with their rate."""
    return [(clip, RATE) for clip in clips(n, seed)]


def write_files(folder, waveforms, rate=RATE):
    """Write clips as WAV files of floats; return their paths."""
    paths = []
    for i, waveform in enumerate(waveforms):
        path = folder / f"{i}.wav"
        soundfile.write(path, waveform, rate, subtype="FLOAT")
        paths.append(str(path))
    return paths
