"""Which spoken prompts sound alike, and who speaks? Ask a network that was trained on voices.

The prompts are those of a telephone exchange's voicemail, said by three voices in three languages:
two women speak English and French, a man Italian. Each clip becomes a vector, by
`AudioEmbedder` with a speaker encoder, and by two baselines that nobody trained, statistics of
log-mel bands and of MFCC. Which prompts are neighbours? Do three clusters find the three voices
without being told of them?

Neighbours share the voice; of the words in common there is little to see in the few that are
printed (MFCC put "review-nonurgent" beside "review-urgent", the network does not). The network's
clusters are the voices. So are, but for a clip, those of MFCC once their columns are standardised:
each voice has its own studio, and three voices so unlike are easy.

Hence a second round, in which every clip is put on a telephone line of its own, with its tone and
noise. No clusters are the voices then. Yet the nearest neighbour still has the same voice, for the
network in 98% or 99% of the clips, for MFCC in 95% (standardised, else 77%), for log-mel bands in
79% at best; a third would be chance.

The prompts are read where Debian's packages put them:
``apt-get install asterisk-core-sounds-{en,fr,it}-wav``.
The network is a module of one's own, as `model=` takes any (``_speaker_encoder.py``). Its weights
are read in place from a package whose code does not run:
``pip install --no-deps Resemblyzer==0.1.4``; without it the script shows the baselines alone.
The figure needs ``pip install skembed[examples]``; ``--save figure.png`` writes it to a file.
"""

# %% Where the figure goes; a notebook has no command line, there it is shown
import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
import soxr
import torch
from _speaker_encoder import SAMPLING_RATE, mels_of, speaker_encoder
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skembed import AudioEmbedder

parser = argparse.ArgumentParser(description="Find spoken prompts that sound alike.")
parser.add_argument("--save", type=Path, help="a file for the figure (.png, .pdf); else a window")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)

# %% The prompts: those of 1.6 to 5 s that all three voices say
SOUNDS = Path("/usr/share/asterisk/sounds")
VOICES = {"en": "en_US_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo"}
for language, name in VOICES.items():
    if not (SOUNDS / name).is_dir():
        sys.exit(f"{SOUNDS / name} is missing: apt-get install asterisk-core-sounds-{language}-wav")

folders = [SOUNDS / name for name in VOICES.values()]
prompts = [
    file.name
    for file in sorted(folders[0].glob("vm-*.wav"))
    if all(
        (folder / file.name).is_file() and 1.6 <= soundfile.info(folder / file.name).duration <= 5
        for folder in folders
    )
]
files = [folder / prompt for folder in folders for prompt in prompts]
voices = np.repeat(list(VOICES), len(prompts))
print(f"{len(prompts)} prompts in each of {len(VOICES)} voices")

# %% Three embedders: a network and two baselines
SPEAKER = "speaker encoder"
embedders = {"logmel": AudioEmbedder("logmel"), "mfcc": AudioEmbedder("mfcc")}
if find_spec("resemblyzer"):
    # It was trained on 1.6 s at a time; windows of that length overlap by half.
    network = AudioEmbedder(speaker_encoder(), preprocess=mels_of, window=1.6, hop=0.8)
    embedders = {SPEAKER: network, **embedders}
else:
    print(
        "No weights of Resemblyzer here (pip install --no-deps Resemblyzer==0.1.4): "
        "the baselines alone"
    )

vectors = {}
for name, embedder in embedders.items():
    started = time.perf_counter()
    vectors[name] = embedder.fit_transform(files)
    seconds = time.perf_counter() - started
    sound = embedder.report_.durations.sum()
    print(f"  {name:<16} {vectors[name].shape[1]:3d} features, {sound:.0f} s in {seconds:.1f} s")

# %% Which prompts sound alike?
ASKED = ["vm-invalidpassword.wav", "vm-tocancel.wav", "vm-review-urgent.wav"]


def title_of(i):
    """Name a clip by its voice and its words."""
    return f"{voices[i]}:{files[i].stem.removeprefix('vm-')}"


def standardise(X):
    """Give columns mean 0 and variance 1: decibels and cepstra have scales of their own."""
    return StandardScaler().fit_transform(X)


for name, X in vectors.items():
    print(f"\nNearest by {name}")
    Z = standardise(X)
    index = NearestNeighbors(n_neighbors=4).fit(Z)
    for i in map(prompts.index, ASKED):
        hits = index.kneighbors(Z[[i]], return_distance=False)[0]
        print(f"  {title_of(i):<20} " + ", ".join(title_of(hit) for hit in hits if hit != i))


# %% Who speaks? As recorded, and on a line of its own for each clip
def put_on_a_line(file, rng):
    """Read a clip and give it a telephone line of its own: tone and noise.

    The spectrum is tilted by up to 3 dB per octave, either way; white noise lies 10 to 30 dB below.
    """
    samples, rate = soundfile.read(file)
    octaves = np.log2(np.fft.rfftfreq(len(samples), 1 / rate).clip(50) / 1000)
    gain = 10 ** (rng.uniform(-3, 3) * octaves / 20)
    tilted = np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))
    noise = rng.standard_normal(len(samples)) * tilted.std() * 10 ** (-rng.uniform(10, 30) / 20)
    noisy = tilted + noise
    return (noisy / np.abs(noisy).max() / 2).astype(np.float32), rate


def judge(name, X):
    """Print how well three clusters are the three voices, and whose voice the neighbours have."""
    for scale, Z in [("as they come", X), ("standardised", standardise(X))]:
        clusters = KMeans(len(VOICES), n_init=20, random_state=0).fit_predict(Z)
        neighbours = NearestNeighbors(n_neighbors=1).fit(Z).kneighbors(return_distance=False)[:, 0]
        rand = adjusted_rand_score(voices, clusters)
        same = (voices[neighbours] == voices).mean()
        print(f"  {name:<16} {scale:<13} {rand:10.2f} {same:15.1%}")


rng = np.random.default_rng(0)
changed = [put_on_a_line(file, rng) for file in files]
changed_vectors = {name: embedder.transform(changed) for name, embedder in embedders.items()}
for title, found in [
    ("Files as they are", vectors),
    ("Each on a line of its own", changed_vectors),
]:
    print(f"\n{title}: 3 clusters beside 3 voices (adjusted Rand index: 1 the same, 0 chance),")
    print("and how many clips have a nearest neighbour of the same voice")
    print(f"  {'vectors':<16} {'features':<13} {'clusters':>10} {'neighbours':>15}")
    for name, X in found.items():
        judge(name, X)

# %% Look at them: a prompt in each voice, above maps of all clips
shown = [prompts.index(ASKED[0]) + len(prompts) * number for number in range(len(VOICES))]
columns = max(len(shown), len(vectors))
figure, axes = plt.subplots(2, columns, figsize=(4 * columns, 7), layout="constrained")
for axis, i in zip(axes[0], shown, strict=False):
    samples, rate = soundfile.read(files[i], dtype="float32")
    mels = mels_of(torch.from_numpy(soxr.resample(samples, rate, SAMPLING_RATE))).numpy()
    level = 10 * np.log10(mels.T + 1e-10)
    axis.imshow(
        level,
        origin="lower",
        aspect="auto",
        extent=(0, len(mels) / 100, 0, mels.shape[1]),
        vmin=level.max() - 60,
    )
    axis.set(title=title_of(i), xlabel="seconds", ylabel="mel band (a telephone ends at 4 kHz)")
for axis, (name, X) in zip(axes[1], vectors.items(), strict=False):
    plane = PCA(2, random_state=0).fit_transform(standardise(X))
    for voice in VOICES:
        axis.scatter(*plane[voices == voice].T, s=14, label=voice)
    axis.set(title=f"{name}: two principal components", xticks=[], yticks=[])
    axis.legend(title="voice")
for axis in [*axes[0, len(shown) :], *axes[1, len(vectors) :]]:
    axis.axis("off")
if args.save:
    figure.savefig(args.save, dpi=100)
    print(f"\nthe figure is in {args.save}")
elif plt.get_backend().lower() == "agg":
    print("\nno screen to show the figure on: --save figure.png writes it to a file")
else:
    plt.show()
