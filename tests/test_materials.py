"""What the materials' loaders return is what their sources say."""

import numpy as np

from tests.materials import food_reviews


def test_food_reviews_are_as_many_as_modeldata_documents():
    for part, n_rows, n_great in [("train", 4000, 2600), ("test", 1000, 658)]:
        texts, ratings = food_reviews(part)
        assert texts.shape == ratings.shape == (n_rows,)
        assert np.sum(ratings == "great") == n_great
        assert set(ratings) == {"great", "other"}
        assert all(isinstance(text, str) and text for text in texts)
