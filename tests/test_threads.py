"""The first calls of a process may come from several threads at once, as those of a web worker."""

import subprocess
import sys

from tests.audio.checkpoints import write_checkpoint as write_sounds
from tests.image.checkpoints import write_checkpoint as write_pictures
from tests.text.checkpoints import write_checkpoint as write_texts

_CODE = """
import sys, threading
import numpy as np
import skembed

folder = sys.argv[1]
noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
picture = np.zeros((64, 64, 3), np.uint8)

def make(kind):
    if kind == "text":
        return skembed.TextEmbedder(f"{folder}/bert"), ["a text"]
    if kind in ("vit", "clip"):
        return skembed.ImageEmbedder(f"{folder}/{kind}"), [picture]
    if kind in ("shufflenet_v2_x0_5", "resnet18"):
        return skembed.ImageEmbedder(kind, weights=None), [picture]
    model = f"{folder}/wav2vec2" if kind == "sound" else kind
    return skembed.AudioEmbedder(model, sampling_rate=16_000), [noise]

def embed(kind):
    try:
        start.wait()
        embedder, rows = make(kind)
        embedder.set_params(cache=None).transform(rows)
    except Exception as error:
        faults.append(f"{kind}: {error!r}")

kinds = ["text", "vit", "clip", "shufflenet_v2_x0_5", "resnet18", "sound", "mfcc", "text"]
start, faults = threading.Barrier(len(kinds)), []
threads = [threading.Thread(target=embed, args=(kind,)) for kind in kinds]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not faults, faults
"""


def test_eight_threads_make_the_first_calls_of_a_process(tmp_path):
    write_texts(tmp_path / "bert")
    write_sounds(tmp_path / "wav2vec2", "wav2vec2")
    for kind in ("vit", "clip"):
        write_pictures(tmp_path / kind, kind)
    command = [sys.executable, "-c", _CODE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
