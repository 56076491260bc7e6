"""Tasks for MTEB on data that is on every machine: docstrings, and people's judgements of words."""

import functools
import inspect
import warnings

import mteb
import numpy as np
import scipy.linalg
import scipy.signal
import scipy.stats
from datasets import Dataset, DatasetDict
from mteb.abstasks import (
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.task_metadata import TaskMetadata

from tests.materials import material

__all__ = ["TASKS", "evaluate", "metadata"]


def metadata(name, kind, score="accuracy"):
    """Return what MTEB wants to know of a task."""
    return TaskMetadata(
        name=name,
        description="Data that is on every machine.",
        type=kind,
        main_score=score,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        dataset={"path": "local", "revision": "1"},
    )


@functools.cache
def docstrings():
    """Return the first 24 words of some docstrings, and where each is from."""
    found = {}
    for label, module in enumerate((scipy.linalg, scipy.signal, scipy.stats)):
        named = [vars(module).get(name) for name in sorted(module.__all__)]
        texts = [inspect.getdoc(each) for each in named if callable(each)]
        words = [text.split() for text in texts if text and len(text) > 200]
        found |= {" ".join(each[:24]): label for each in words[:24]}
    return list(found), list(found.values())


class Modules(AbsTaskClassification):
    """Which module is a docstring from?"""

    metadata = metadata("DocstringModules", "Classification")
    n_experiments = 2

    def load_data(self, num_proc=None, **options):
        texts, labels = docstrings()
        self.dataset = DatasetDict(
            train=Dataset.from_dict({"text": texts[::2], "label": labels[::2]}),
            test=Dataset.from_dict({"text": texts[1::2], "label": labels[1::2]}),
        )
        self.data_loaded = True


class ModuleClusters(AbsTaskClustering):
    """Are docstrings of a module near each other?"""

    metadata = metadata("DocstringClusters", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    max_documents_per_cluster = 100
    n_clusters = 2

    def load_data(self, num_proc=None, **options):
        texts, labels = docstrings()
        self.dataset = DatasetDict(test=Dataset.from_dict({"sentences": texts, "labels": labels}))
        self.data_loaded = True


class Continuations(AbsTaskRetrieval):
    """Which docstring begins with these words?"""

    metadata = metadata("DocstringContinuations", "Retrieval", "ndcg_at_10")

    def load_data(self, num_proc=None, **options):
        words = [text.split() for text in docstrings()[0]]
        names = [f"{i}" for i in range(len(words))]
        queries = {"id": names, "text": [" ".join(each[:8]) for each in words]}
        texts = [" ".join(each[8:]) for each in words]
        corpus = {"id": [f"d{i}" for i in names], "text": texts, "title": [""] * len(texts)}
        split = {
            "queries": Dataset.from_dict(queries),
            "corpus": Dataset.from_dict(corpus),
            "relevant_docs": {name: {f"d{name}": 1} for name in names},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class SimLex(AbsTaskSTS):
    """How similar are two words (Hill, Reichart and Korhonen, 2015, arXiv:1408.3456)?"""

    metadata = metadata("SimLex", "STS", "cosine_spearman")
    max_score = 10

    def load_data(self, num_proc=None, **options):
        lines = (material("gensim") / "simlex999.txt").read_text().splitlines()
        rows = [line.split("\t") for line in lines if not line.startswith("#")][:150]
        first, second, human = zip(*rows, strict=True)
        columns = {"sentence1": first, "sentence2": second, "score": np.array(human, float)}
        self.dataset = DatasetDict(test=Dataset.from_dict(columns))
        self.data_loaded = True


TASKS = (Modules, ModuleClusters, Continuations, SimLex)


def evaluate(model, task):
    """Return all scores of a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MTEB's own, of sentence-transformers and scikit-learn
        result = mteb.evaluate(model, task(), cache=None, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    is_score = {name: isinstance(v, float) and not np.isnan(v) for name, v in scores.items()}
    return {name: value for name, value in scores.items() if is_score[name]}
