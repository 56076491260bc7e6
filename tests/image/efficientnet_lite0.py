"""EfficientNet-Lite0 of the examples: a user's module with real weights."""

import importlib.util
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "examples" / "_efficientnet_lite0.py"
_spec = importlib.util.spec_from_file_location("_efficientnet_lite0", _SOURCE)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

Preset, efficientnet_lite0 = _module.Preset, _module.efficientnet_lite0
