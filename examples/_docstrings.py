"""Short texts that every machine with scikit-learn has: what functions say of themselves."""

import inspect
import re
from importlib import import_module

import numpy as np


def first_sentences(*modules):
    """Return what public functions and classes of modules say of themselves, and their modules.

    Of each the first paragraph of its docstring, a sentence as a rule; texts that two share, and
    those of fewer than three words, are left out.
    """
    found = {}
    for module_name in modules:
        module = import_module(module_name)
        for name in sorted(getattr(module, "__all__", vars(module))):
            thing = getattr(module, name)
            text = (inspect.getdoc(thing) or "") if callable(thing) else ""
            if re.match(r"[\w.]+\(", text):  # compiled functions begin with their call
                text = text.partition("\n\n")[2]
            text = " ".join(text.partition("\n\n")[0].split())
            if len(text.split()) >= 3 and not name.startswith("_"):
                found.setdefault(text, []).append(module_name)
    alone = {text: homes[0] for text, homes in found.items() if len(homes) == 1}
    return np.array(list(alone), dtype=object), np.array(list(alone.values()))
