"""Damaged image files, and a process that opens them all under a limit of memory.

`python -m tests.image.mutants` prints what became of each as JSON; `test_fuzz.py` judges it. Part
of them are embedded as well.
"""

import collections
import faulthandler
import io
import json
import random
import resource
import struct
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from skembed import ImageEmbedder
from skembed.image._inputs import check_images
from skembed.image._rgb import UnreadablePicture
from tests.image.networks import TinyNetwork, to_small_pixels
from tests.image.pictures import encode, png_chunk, png_file

N_EACH = 250
EMBEDDED = 4  # one of so many
SPARE_MIB = 400
LITTLE_MIB = 200
SECONDS = 60
MOST_PIXELS = 6_000_000

SIZES = [0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000]
SIZES += [0xFFFFFFFE, 0xFFFFFFFF, 1000, 2500, 50_000]
CHUNKS = [b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"PLTE"]
CHUNKS += [b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"sBIT", b"fRAc"]
BOMB = zlib.compress(bytes(50_000_000), 9)


def originals():
    """Return a few small files of each format, in modes that are decoded in different ways."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 4), dtype=np.uint8)
    pixels[4:14] = pixels[4]
    rgba = Image.fromarray(pixels)
    rgb, gray = rgba.convert("RGB"), rgba.convert("L")
    paletted = rgb.quantize(8)
    wide = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    cmyk = rgb.convert("CMYK")
    return {
        "PNG": [
            *(encode(image) for image in (rgb, rgba, gray, gray.convert("LA"), wide)),
            encode(gray.convert("1"), bits=1),
            encode(paletted, transparency=bytes([0, 128, 255])),
            encode(rgb, exif=exif, **frames),
        ],
        "JPEG": [
            *(encode(image, "JPEG", exif=exif) for image in (rgb, gray, cmyk)),
            encode(rgb, "JPEG", progressive=True, subsampling=0),
            encode(rgb, "JPEG", restart_marker_blocks=1, comment=b"a comment"),
        ],
        "GIF": [
            encode(gray, "GIF"),
            encode(paletted, "GIF", transparency=2, interlace=1),
            encode(rgb, "GIF", duration=20, loop=0, disposal=2, **frames),
        ],
        "WEBP": [
            encode(rgb, "WEBP", quality=50),
            encode(rgba, "WEBP", lossless=True, exif=exif),
            encode(rgb, "WEBP", **frames),
        ],
        "TIFF": [
            *(encode(image, "TIFF") for image in (rgb, rgba, wide, paletted, gray.convert("F"))),
            *(encode(rgb, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")),
            encode(cmyk, "TIFF", compression="tiff_adobe_deflate", exif=exif),
            encode(gray.convert("1"), "TIFF", compression="group4"),
            encode(rgb, "TIFF", **frames),
        ],
        "BMP": [
            *(encode(image, "BMP") for image in (rgb, rgba, gray, paletted, gray.convert("1"))),
            _run_length_bmp(),
        ],
    }


def _run_length_bmp():
    """Return a BMP file of 8 x 4 pixels in run-length coding, which Pillow does not write."""
    runs = bytes([8, 1, 0, 0, 3, 2, 0, 5, 3, 4, 5, 6, 7, 0, 0, 0, 0, 2, 1, 1, 6, 3, 0, 1])
    palette = bytes(range(64)) * 4 + bytes(768)
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    start = struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset)
    return start + header + palette + runs


def mutate(form, data, other, chance):
    """Return a damaged copy of a file; `other` is a file of the same format."""
    data = bytearray(data)
    ways = [_flip, _overwrite, _truncate, _splice, _lie, _lie, _repeat, _remove]
    if form == "PNG":
        ways += [_insert_chunk] * 4
    if form in ("JPEG", "GIF", "WEBP"):
        ways += [_insert_segment] * 2
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        data = chance.choice(ways)(data, other, chance, form)
        if not data:
            return b"\0"
    # Half of the damage is below checksums, or no decoder would ever meet it.
    if form == "PNG" and chance.random() < 0.6:
        data = _mend_checksums(data)
    return bytes(data)


def _flip(data, other, chance, form):
    for _ in range(chance.choice([1, 2, 4, 16])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _overwrite(data, other, chance, form):
    start = chance.randrange(len(data))
    data[start : start + chance.randrange(1, 20)] = chance.randbytes(chance.randrange(1, 20))
    return data


def _truncate(data, other, chance, form):
    return data[: chance.randrange(1, len(data) + 1)]


def _splice(data, other, chance, form):
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _lie(data, other, chance, form):
    """Write an extreme number where headers have sizes, offsets and counts."""
    size, order = chance.choice([1, 2, 4]), chance.choice("<>")
    start = chance.randrange(min(len(data), chance.choice([32, 64, 1 << 20])))
    number = chance.choice(SIZES) & (256**size - 1)
    data[start : start + size] = struct.pack(order + {1: "B", 2: "H", 4: "I"}[size], number)
    return data


def _repeat(data, other, chance, form):
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randrange(1, 200)]
    return data[:start] + piece * chance.choice([2, 3, 50]) + data[start:]


def _remove(data, other, chance, form):
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.randrange(1, 60) :]


def _insert_chunk(data, other, chance, form):
    """Insert a whole PNG chunk, of noise or with a text or profile that inflates to 50 MB."""
    ends, at = [33], 33
    while at + 8 <= len(data):
        at += 12 + struct.unpack_from(">I", data, at)[0]
        ends.append(at)
    kind = chance.choice(CHUNKS)
    content = chance.randbytes(chance.choice([0, 1, 2, 6, 13, 26, 300]))
    if kind in (b"iCCP", b"zTXt", b"iTXt") and chance.random() < 0.7:
        content = b"name\0\0" + (b"" if kind != b"iTXt" else b"\1\0\0\0") + BOMB
    if kind == b"IHDR":
        sizes = chance.choice(SIZES), chance.choice(SIZES)
        content = struct.pack(">II5B", *sizes, chance.choice([1, 8, 16]), 2, 0, 0, 0)
    at = chance.choice(ends)
    return data[:at] + png_chunk(kind, content) + data[at:]


def _insert_segment(data, other, chance, form):
    noise = chance.randbytes(chance.choice([0, 4, 20, 200]))
    if form == "JPEG":
        heads = {0xE1: b"Exif\0\0II*\0\x08\0\0\0", 0xE2: b"MPF\0II*\0", 0xED: b"Photoshop 3.0\0"}
        marker = chance.choice([0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
        noise = heads.get(marker, b"") + noise
        return (
            data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(noise) + 2) + noise + data[2:]
        )
    if form == "GIF":
        at = chance.randrange(min(13, len(data)), len(data) + 1)
        frame = struct.pack("<4HB", *(chance.choice(SIZES) & 0xFFFF for _ in range(4)), 0)
        block = chance.choice(
            [b"!\xf9\4" + noise[:5], b"!\xff\x0bNETSCAPE2.0", b"!\xfe", b"," + frame]
        )
        return data[:at] + block + bytes([len(noise)]) + noise + b"\0" + data[at:]
    kind = chance.choice([b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF"])
    return data[:12] + kind + struct.pack("<I", len(noise)) + noise + data[12:]


def _mend_checksums(data):
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return data


def mutants(form):
    """Yield damaged files of a format, always the same."""
    files = originals()[form]
    for i, data in enumerate(files):
        for j in range(N_EACH * 6 // len(files) + 1):
            chance = random.Random(f"{form} {i} {j}")
            yield mutate(form, data, chance.choice(files), chance)


def lies():
    """Return a few bytes of each format that say they are 88 million pixels."""
    side = 9400
    png = png_file(side, side, bits=8, colour=6)
    gif = b"GIF89a" + struct.pack("<HH", side, side) + b"\xf0\0\0" + bytes(6)
    gif += b"," + struct.pack("<4HB", 0, 0, side, side, 0) + b"\2\2D\1\0;"
    bmp = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    return {"PNG": png, "GIF": gif, "BMP": bmp}


def outcome_of(data):
    """Return what became of a file: "image", or what is wrong with it."""
    rows = check_images([data])
    try:
        image = None if rows.faults else rows.items[0].open()
        fault = rows.faults.get(0, "")
    except UnreadablePicture as error:
        image, fault = None, f"{rows.items[0].describe()}: {error}"
    if image is None:
        prefix, _, reason = fault.partition(": ")
        assert prefix == f"{len(data):,} bytes"
        return reason
    assert image.mode == "RGB" and image.width * image.height > 0
    assert len(image.tobytes()) == 3 * image.width * image.height
    return "image"


def outcome_as_image(data):
    """Return what became of a file that the user opened with Pillow, but did not read."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:
        return "not opened by the user"
    rows = check_images([image])
    if rows.faults:
        return rows.faults[0]
    assert rows.items[0].open().mode == "RGB"
    return "image"


def embed(files):
    """Embed files; return which rows are neither vectors nor faults, or unlike `outcome_of`."""
    embedder = ImageEmbedder(
        TinyNetwork(), preprocess=to_small_pixels, on_error="nan", dtype="float32", cache=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = embedder.transform(files)
        outcomes = [outcome_of(data) for data in files]
    report = embedder.report_
    is_fault = np.isin(np.arange(len(files)), list(report.faults))
    is_right = np.where(is_fault, np.isnan(vectors).all(1), np.isfinite(vectors).all(1))
    is_right &= (report.n_pixels > 0) != is_fault
    found = [report.faults.get(i, ": image").partition(": ")[2] for i in range(len(files))]
    return {
        "n_vectors": len(np.unique(vectors[~is_fault], axis=0)),
        "n_faults": len(report.faults),
        "wrong": np.flatnonzero(~is_right).tolist(),
        "unlike": [[a, b] for a, b in zip(found, outcomes, strict=True) if a != b],
    }


def limit_memory(spare_mib):
    """Leave this process so much more address space than it has already."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = n_pages * resource.getpagesize() + (spare_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main():
    """Open all and print the outcomes, how much memory and time the worst took, and surprises."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    files = {form: list(mutants(form)) for form in originals()}
    embed([data for some in originals().values() for data in some])  # imports, starts threads
    limit_memory(SPARE_MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS
    outcomes = {form: collections.Counter() for form in files}
    images: collections.Counter[str] = collections.Counter()
    surprises = []
    for form, damaged in files.items():
        for i, data in enumerate(damaged):
            with warnings.catch_warnings():
                warnings.simplefilter("error" if i % 3 == 0 else "ignore")
                try:
                    outcomes[form][outcome_of(data)] += 1
                    images[outcome_as_image(data)] += 1
                except BaseException:
                    surprises.append(f"{form} {i}: {traceback.format_exc()}")
    embedded = {form: embed(damaged[::EMBEDDED]) for form, damaged in files.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Image.MAX_IMAGE_PIXELS = usual
    limit_memory(LITTLE_MIB)
    json.dump(
        {
            "lies": {form: outcome_of(data) for form, data in lies().items()},
            "images": dict(images.most_common()),
            "outcomes": {form: dict(counter.most_common()) for form, counter in outcomes.items()},
            "surprises": surprises,
            "embedded": embedded,
            "grown_mib": (peak - before) / 1024,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
