"""Sound: `AudioEmbedder` and what it is made of."""

from skembed.audio._embedder import AudioEmbedder, AudioReport

__all__ = ["AudioEmbedder", "AudioReport"]
