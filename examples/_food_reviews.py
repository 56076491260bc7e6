"""Food reviews from a shop, as Debian's package of R's modeldata has them; R is not needed.

4,000 reviews to learn from (3,980 distinct) and 1,000 to be tested on, each rated "great" (65%) or
"other".

Reference: J. McAuley and J. Leskovec, "From amateurs to connoisseurs: modeling the evolution of
user expertise through online reviews", WWW 2013, doi:10.1145/2488388.2488466.
"""

import numpy as np
from _modeldata import modeldata


def food_reviews(part, folder=None):
    """Return the texts and ratings of "train" or "test", two arrays of strings.

    `folder` is as for `modeldata`.
    """
    frame = modeldata({"train": "training_data", "test": "testing_data"}[part], folder)
    return frame["review"].to_numpy(object), frame["score"].astype(str).to_numpy(object)


if __name__ == "__main__":
    for each in ("train", "test"):
        texts, ratings = food_reviews(each)
        share = np.mean(ratings == "great")
        print(f"{each}: {len(texts):,} reviews, {share:.1%} great; the first: {texts[0]:.60}...")
