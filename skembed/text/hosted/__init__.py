"""Text models on servers that speak OpenAI's protocol. Does not import torch by itself."""
