"""Damaged files, decoded in another process: it may crash, hang, or print."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skembed.audio._decoding import UnreadableSound, decode, why_not_a_sound
from tests.audio.sounds import KINDS, encode, noise

N_PER_KIND = 300
FUZZED = ["wav", "wav float", "wav adpcm", "wavex", "rf64", "w64", "aiff", "caf", "nist"]
FUZZED += ["flac", "flac 24", "vorbis", "opus", "mp3"]
SOME_BYTES = [0, 1, 0x7F, 0x80, 0xFE, 0xFF]


def mutants(kind):
    """Yield damaged files, always the same."""
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    files = [encode(kind, noise(4800 + 4800 * i, 1 + i % 2, seed=i), 48000) for i in range(3)]
    other = encode("flac" if kind != "flac" else "vorbis", noise(4800))
    for number in range(N_PER_KIND):
        data = bytearray(files[number % 3])
        for _ in range(int(rng.integers(1, 4))):
            MUTATIONS[number % len(MUTATIONS)](data, rng, files, other)
        yield bytes(data)


def flip_bits(data, rng, files, other):
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def flip_in_header(data, rng, files, other):
    data[rng.integers(min(120, len(data)))] ^= 1 << rng.integers(8)


def set_in_header(data, rng, files, other):
    at, n = int(rng.integers(min(120, len(data)))), int(rng.integers(1, 9))
    data[at : at + n] = bytes([rng.choice(SOME_BYTES)]) * n


def cut_end(data, rng, files, other):
    del data[rng.integers(1, len(data)) :]


def cut_out(data, rng, files, other):
    at = int(rng.integers(len(data)))
    del data[at : at + int(rng.integers(1, 2000))]


def insert(data, rng, files, other):
    at = int(rng.integers(len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 600)))


def zero(data, rng, files, other):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 1000))
    data[at : at + n] = bytes(len(data[at : at + n]))


def swap(data, rng, files, other):
    source = [*files, other][rng.integers(4)]
    at, start, n = rng.integers(len(data)), rng.integers(len(source)), int(rng.integers(4, 1500))
    data[at : at + n] = source[start : start + n]


def repeat(data, rng, files, other):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 3000))
    data[at:at] = data[at : at + n]


MUTATIONS = [flip_bits, flip_in_header, set_in_header, cut_end, cut_out, insert, zero, swap, repeat]


def decode_mutants():
    """Print what became of them all, as JSON."""
    outcomes = {}
    surprises = []
    for kind in FUZZED:
        counts = outcomes[kind] = {}
        for number, data in enumerate(mutants(kind)):
            try:
                early = why_not_a_sound(data)
                samples = decode(data, 16000)
                outcome = "decoded"
                if early is not None:
                    surprises.append(f"{kind} {number}: decoded in spite of {early}")
                if samples.dtype != np.float32 or samples.ndim != 1 or not len(samples):
                    surprises.append(f"{kind} {number}: {samples.dtype}, {samples.shape}")
                if not np.isfinite(samples).all():
                    surprises.append(f"{kind} {number}: not finite")
            except UnreadableSound as error:
                outcome = str(error)
                if early is not None and early != outcome:
                    surprises.append(f"{kind} {number}: first {early}, then {outcome}")
            except BaseException as error:
                outcome = "surprise"
                surprises.append(f"{kind} {number}: {type(error).__name__}: {error}")
            counts[outcome] = counts.get(outcome, 0) + 1
    try:
        import resource

        n_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    except ImportError:
        n_mib = 0.0
    sys.stdout.write(json.dumps({"outcomes": outcomes, "surprises": surprises, "n_mib": n_mib}))


@pytest.fixture(scope="module")
def result():
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r})\n"
    code += "from tests.audio.test_fuzz import decode_mutants; decode_mutants()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout), "stderr": done.stderr}


def test_mutants_are_always_the_same():
    assert list(mutants("flac"))[:30] == list(mutants("flac"))[:30]


def test_damage_raises_nothing_but_faults(result):
    assert result["surprises"] == []
    assert sum(sum(counts.values()) for counts in result["outcomes"].values()) >= 4000


def test_damage_prints_nothing(result):
    assert result["stderr"] == ""


def test_headers_that_lie_take_no_memory(result):
    assert result["n_mib"] < 1500


def test_damage_reaches_the_decoders(result):
    for kind, counts in result["outcomes"].items():
        n_files = sum(counts.values())
        # Checksums leave hardly any damage of Ogg and FLAC files unseen.
        assert counts["decoded"] >= 0.005 * n_files, kind
        assert len(counts) >= 8, kind


def test_damage_of_files_with_checksums_is_seen(result):
    # The rest is damage outside of the sound, such as of comments.
    for kind in ("flac", "flac 24"):
        assert result["outcomes"][kind]["decoded"] < 0.3 * N_PER_KIND
    for kind in ("vorbis", "opus"):
        assert result["outcomes"][kind]["decoded"] < 0.1 * N_PER_KIND
