"""
Who speaks, and which prompts sound alike?
==========================================

Do vectors of sound know a voice again? The prompts are those of a telephone exchange's voicemail,
said by three voices in three languages: two women speak English and French, a man Italian. Each
clip becomes a vector, by ``AudioEmbedder`` with a speaker encoder, a network that was trained on
voices, and by two baselines that nobody trained, statistics of log-mel bands and of MFCC.

Needs ``pip install skembed[examples]``, ``pip install --no-deps Resemblyzer==0.1.4`` for the
network's weights (none of its code runs), and Debian's packages
``asterisk-core-sounds-{en,fr,it}-wav``.
"""

# %%
# The prompts
# -----------
# Those of 1.6 to 5 s that all three voices say.
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
from _speaker_encoder import mels_of, speaker_encoder
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skembed import AudioEmbedder, EmbeddingMapDisplay

SOUNDS = Path("/usr/share/asterisk/sounds")
VOICES = {"English": "en_US_f_Allison", "French": "fr_CA_f_June", "Italian": "it_IT_m_Carlo"}
folders = [SOUNDS / name for name in VOICES.values()]
if not all(folder.is_dir() for folder in folders):
    raise SystemExit("The prompts are missing: apt-get install asterisk-core-sounds-{en,fr,it}-wav")
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

# %%
# A network and two baselines
# ---------------------------
# The network is a module of one's own, as ``model=`` takes any (``_speaker_encoder.py``). It was
# trained on 1.6 s at a time; windows of that length overlap by half.
embedders = {
    "speaker encoder": AudioEmbedder(speaker_encoder(), preprocess=mels_of, window=1.6, hop=0.8),
    "mfcc": AudioEmbedder("mfcc"),
    "logmel": AudioEmbedder("logmel"),
}
vectors = {name: embedder.fit_transform(files) for name, embedder in embedders.items()}
sound = embedders["mfcc"].report_.durations.sum()
print(f"{len(prompts)} prompts in each of {len(VOICES)} voices, {sound:.0f} s of sound")

# %%
# Which prompts are neighbours?
# -----------------------------
# Neighbours share the voice. Of the words in common there is little to see: these vectors are of
# how something sounds, not of what it says.
for name, X in vectors.items():
    Z = StandardScaler().fit_transform(X)
    index = NearestNeighbors(n_neighbors=4).fit(Z)
    print(f"nearest by {name}")
    for asked in ("vm-invalidpassword.wav", "vm-tocancel.wav", "vm-review-urgent.wav"):
        i = prompts.index(asked)
        hits = index.kneighbors(Z[[i]], return_distance=False)[0]
        found = (f"{voices[j]} {files[j].stem.removeprefix('vm-')}" for j in hits if j != i)
        print(f"  {files[i].stem.removeprefix('vm-'):<16} {', '.join(found)}")


# %%
# Who speaks?
# -----------
# As recorded that is easy: each voice has its own studio. Hence a second round, in which every clip
# is put on a telephone line of its own, with its tone and noise.
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


rng = np.random.default_rng(0)
on_lines = [put_on_a_line(file, rng) for file in files]
rounds = {
    "as recorded": vectors,
    "on a line each": {name: each.transform(on_lines) for name, each in embedders.items()},
}

# %%
# ``clusters`` says how well three clusters are the three voices (adjusted Rand index: 1 the same, 0
# chance), ``neighbours`` how many clips have a nearest neighbour of the same voice (chance: a
# third). Columns are standardised, as decibels and cepstra have scales of their own.
print(f"{'':<16}{'vectors':<18}{'clusters':>10}{'neighbours':>12}")
for title, of_round in rounds.items():
    for name, X in of_round.items():
        Z = StandardScaler().fit_transform(X)
        clusters = KMeans(len(VOICES), n_init=20, random_state=0).fit_predict(Z)
        nearest = NearestNeighbors(n_neighbors=1).fit(Z).kneighbors(return_distance=False)[:, 0]
        rand, same = adjusted_rand_score(voices, clusters), (voices[nearest] == voices).mean()
        print(f"{title:<16}{name:<18}{rand:10.2f}{same:12.0%}")

# %%
# So?
# ---
# As recorded, the network's clusters are the voices, and those of MFCC are nearly. On lines of
# their own no clusters are, as the line is heard before the voice; yet the network's nearest
# neighbours still have the same voice nearly always, and those of log-mel bands often not. The maps
# are of the second round.
figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
for ax, (name, X) in zip(axes, rounds["on a line each"].items(), strict=True):
    Z = StandardScaler().fit_transform(X)
    EmbeddingMapDisplay.from_embeddings(
        Z, voices, metric="euclidean", ax=ax, labels=False, legend=ax is axes[-1]
    )
    ax.set_title(name)
figure.suptitle("Three voices, each clip on a telephone line of its own")
plt.show()
