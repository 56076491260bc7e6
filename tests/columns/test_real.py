"""Real tables: what their columns are taken for."""

import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris

from skembed.columns import TableEncoder
from tests.materials import example, material


@pytest.fixture(scope="module")
def read():
    folder = material("modeldata")
    return lambda name: example("_modeldata").modeldata(name, folder)


def kinds(frame, **parameters):
    """Return the columns of each kind, and the rows' arrays."""
    encoder = TableEncoder(**parameters).fit(frame)
    found = {}
    for column in encoder.columns_.values():
        found.setdefault(column.kind, []).append(column.name)
    rows, faults = encoder.transform(frame)
    assert len(rows) == len(frame)
    assert not faults
    return found, encoder


def test_houses(read):
    frame = read("ames")
    found, encoder = kinds(frame)
    assert set(found) == {"number", "category"}
    assert {"Lot_Area", "Year_Built", "Sale_Price", "Latitude"} <= {*found["number"]}
    assert {"Neighborhood", "Mo_Sold", "Year_Sold", "Garage_Cars"} <= {*found["category"]}
    # Counts and years are numbers as well.
    assert encoder.columns_["Mo_Sold"].parts == ("number", "code")
    assert encoder.columns_["Mo_Sold"].why == "12 distinct integers of 2,930 rows, 1 to 12"


def test_strings_are_read_as_the_numbers_they_are(read):
    frame = read("ames")
    written = frame.astype(str)
    found, encoder = kinds(frame)
    of_strings, other = kinds(written)
    assert of_strings == found
    assert other.digest == encoder.digest


def test_customers(read):
    found, encoder = kinds(read("wa_churn"))
    assert found["number"] == ["tenure", "monthly_charges", "total_charges"]
    assert encoder.columns_["total_charges"].n_missing == 11
    assert encoder.columns_["female"].parts == ("code",)
    assert len(found["category"]) == 17


@pytest.mark.parametrize("name", ["attrition", "credit_data", "lending_club", "stackoverflow"])
def test_no_column_of_a_survey_is_dropped_or_text(read, name):
    found, _ = kinds(read(name))
    assert set(found) == {"number", "category"}


def test_reviews_are_text_and_what_they_are_about_is_not(read):
    found, encoder = kinds(read("testing_data"))
    assert found["text"] == ["review"]
    assert encoder.columns_["review"].parts == ("text of 30",)
    assert found["category"] == ["score"]


def test_iris_is_numbers():
    found, _ = kinds(load_iris(as_frame=True).data)
    assert set(found) == {"number"}


def test_pixels_that_are_always_black_are_dropped():
    found, encoder = kinds(load_digits(as_frame=True).data)
    assert found["drop"] == ["pixel_0_0", "pixel_4_0", "pixel_4_7"]
    # A pixel with few shades is a category that is a number, too.
    assert all("number" in encoder.columns_[name].parts for name in found["number"])
    assert isinstance(encoder.transform(load_digits().data)[0].nbytes, int)
    pd.testing.assert_index_equal(
        pd.Index(encoder.columns_), load_digits(as_frame=True).data.columns
    )
