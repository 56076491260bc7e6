"""The speaker encoder of the examples: a user's module with real weights."""

import importlib.util
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "examples" / "_speaker_encoder.py"
_spec = importlib.util.spec_from_file_location("_speaker_encoder", _SOURCE)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

mels_of, raise_level = _module.mels_of, _module.raise_level
speaker_encoder = _module.speaker_encoder
