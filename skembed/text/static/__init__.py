"""Static vectors: a text is the mean of its words' vectors. Does not import torch by itself."""
