"""Images: `ImageEmbedder` and what it is made of."""
