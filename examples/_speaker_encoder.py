"""A speaker encoder as a user would write it: real weights in a module of one's own.

The weights are those of Resemblyzer, trained to tell speakers apart. Its package carries them:
``pip install --no-deps Resemblyzer==0.1.4``; none of its code runs here.

Reference: Wan, Wang, Papir and Lopez Moreno, Generalized end-to-end loss for speaker verification,
arXiv:1710.10467.
"""

import math
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

SAMPLING_RATE = 16_000  # Hz
WINDOW, HOP, N_MELS = 400, 160, 40  # 25 ms and 10 ms, in samples; bands
LEAST_LEVEL = -30  # dB relative to full scale (a root mean square of 1)


class SpeakerEncoder(nn.Module):
    """Maps mels (n, frames, 40) to unit vectors (n, 256) with no negative component.

    It was trained on 160 frames (1.6 s); longer clips are the mean of such windows.
    """

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels):
        hidden = self.lstm(mels)[0][:, -1]
        return nn.functional.normalize(torch.relu(self.linear(hidden)), dim=1)


def speaker_encoder(folder=None):
    """Load the network from a folder with its pretrained.pt, by default that of the package."""
    if folder is None:
        spec = find_spec("resemblyzer")
        if spec is None:
            raise SystemExit(
                "This example needs the weights of Resemblyzer: pip install --no-deps "
                "Resemblyzer==0.1.4"
            )
        folder = spec.submodule_search_locations[0]
    path = Path(folder) / "pretrained.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    # Only the training loss has a use for these two.
    state = {name: value for name, value in state.items() if not name.startswith("similarity_")}
    module = SpeakerEncoder()
    module.load_state_dict(state, strict=True)
    return module.eval()


def mels_of(waveform):
    """Turn a waveform (samples,) at 16 kHz, full scale 1, into mels (1 + samples // 160, 40).

    Power in 40 bands of Slaney's scale with an area of 1 Hz, no logarithm; frames are centred, with
    zeros around the clip: what librosa's `melspectrogram` gives. Resemblyzer cuts out long
    silences before, with a library of its own; here they stay.
    """
    waveform = raise_level(waveform)
    spectrum = torch.stft(
        waveform,
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return (FILTERS @ spectrum.abs().square()).T.contiguous()


def raise_level(waveform):
    """Amplify a clip to -30 dB if it is softer; silence stays silence."""
    level = waveform.square().mean().sqrt()
    least = 10 ** (LEAST_LEVEL / 20)
    return waveform * (least / level) if 0 < level < least else waveform


def mel_filters():
    """Return Slaney's triangles for 0 to 8000 Hz: linear below 1000 Hz, logarithmic above."""
    top = 15 + 27 * math.log(SAMPLING_RATE / 2 / 1000, 6.4)
    mels = torch.linspace(0, top, N_MELS + 2, dtype=torch.float64)
    corners = torch.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))
    low, centre, high = (corners[i : i + N_MELS, None] for i in range(3))
    frequencies = torch.arange(WINDOW // 2 + 1, dtype=torch.float64) * SAMPLING_RATE / WINDOW
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


FILTERS = mel_filters()
