"""Sound: `AudioEmbedder` and its parts."""

from skembed.audio._embedder import AudioEmbedder, AudioReport

__all__ = ["AudioEmbedder", "AudioReport"]
