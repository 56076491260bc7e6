"""Small sound files of all formats, made from seeds."""

import io

import av
import numpy as np
import soundfile

# By a short name: libsndfile's format and subtype.
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "wav u8": ("WAV", "PCM_U8"),
    "wav 24": ("WAV", "PCM_24"),
    "wav 32": ("WAV", "PCM_32"),
    "wav float": ("WAV", "FLOAT"),
    "wav double": ("WAV", "DOUBLE"),
    "wav mu-law": ("WAV", "ULAW"),
    "wav a-law": ("WAV", "ALAW"),
    "wav adpcm": ("WAV", "MS_ADPCM"),
    "wavex": ("WAVEX", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "flac 24": ("FLAC", "PCM_24"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}

# Of which the samples come back as they are, but for rounding to the given step.
STEPS = {
    "wav": 2**-15,
    "wav u8": 2**-7,
    "wav 24": 2**-23,
    "wav 32": 2**-24,
    "wav float": 1e-9,
    "wav double": 1e-9,
    "wavex": 2**-15,
    "w64": 2**-15,
    "rf64": 2**-15,
    "aiff": 2**-15,
    "au": 2**-15,
    "caf": 2**-15,
    "nist": 2**-15,
    "flac": 2**-15,
    "flac 24": 2**-23,
}


def noise(n=4800, n_channels=1, seed=0, level=0.1):
    """Return noise over a tone, shape (n,) or (n, n_channels), float32."""
    rng = np.random.default_rng(seed)
    shape = (n, n_channels) if n_channels > 1 else (n,)
    tone = 0.2 * np.sin(np.arange(n) * 0.07)
    samples = level * rng.standard_normal(shape) + (tone[:, None] if n_channels > 1 else tone)
    return np.clip(samples, -0.95, 0.95).astype(np.float32)


def encode(kind, samples, rate=48000, **how):
    """Return a sound file's bytes."""
    form, subtype = KINDS[kind]
    file = io.BytesIO()
    n_channels = samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(
        file, "w", rate, n_channels, format=form, subtype=subtype, **how
    ) as writer:
        # libsndfile 1.2.2 overflows its stack over Vorbis of more than a minute at once.
        for start in range(0, len(samples), 100_000):
            writer.write(samples[start : start + 100_000])
    return file.getvalue()


def tone(hertz, rate, n, phase=0.0, level=0.5):
    """Return a sine, float64 values as float32."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(n) / rate + phase)).astype(np.float32)


def encode_by_ffmpeg(form, codec, samples, rate=48000, layout="mono"):
    """Return samples (n,) or (channels, n) in a container of FFmpeg's."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        packed = np.ascontiguousarray(np.atleast_2d(samples).T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()
