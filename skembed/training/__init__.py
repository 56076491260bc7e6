"""Training inside `fit`: strategies, one loop, and what it learned.

Strategies and states import no torch; `learn` and `TrainedBackbone` are imported when needed.
"""

from skembed.training._contrastive import Contrastive
from skembed.training._display import TrainingCurveDisplay
from skembed.training._fine_tune import FineTune
from skembed.training._in_context import InContext
from skembed.training._pairs import check_pairs
from skembed.training._self_supervised import SelfSupervised
from skembed.training._state import TrainedState
from skembed.training._strategy import Strategy
from skembed.training._word_weights import WordWeights

__all__ = [
    "Contrastive",
    "FineTune",
    "InContext",
    "SelfSupervised",
    "Strategy",
    "TrainedState",
    "TrainingCurveDisplay",
    "WordWeights",
    "check_pairs",
]
