"""Requests of OpenAI's protocol are checked and vectors written as its clients expect them."""

import base64
import json

import numpy as np
import pytest

from skembed.serving._protocol import (
    EmbeddingRequest,
    RequestError,
    leading,
    parse_request,
    refuse_texts,
    write_response,
)

RIGHT = {"input": "a text", "model": "m"}


def parse(fields, **changes):
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return parse_request(body, **{"name": "m", "width": 8, "max_texts": 3, **changes})


class TestRequests:
    def test_one_text_is_a_list_of_one(self):
        assert parse(RIGHT) == EmbeddingRequest(["a text"])

    def test_all_fields_of_the_protocol_are_read(self):
        fields = {"encoding_format": "base64", "dimensions": 8, "user": "somebody"}
        given = parse({"input": ["a", ""], "model": "m", **fields})
        assert given == EmbeddingRequest(["a", ""], "base64", 8)

    def test_null_is_a_field_that_was_left_out(self):
        fields = {"encoding_format": None, "dimensions": None, "user": None}
        assert parse({**RIGHT, **fields}) == EmbeddingRequest(["a text"])

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"\xff", "not valid JSON"),
            (b"[" * 100_000, "not valid JSON: nested too deep"),
            (b'{"dimensions": ' + b"9" * 5000 + b"}", "not valid JSON"),
            (b'["a"]', "expected an object with model and input, got a list"),
            (b"null", "expected an object with model and input, got null"),
        ],
        ids=["empty", "cut", "not UTF-8", "deep", "a long number", "a list", "null"],
    )
    def test_a_body_that_is_no_request_is_refused(self, body, message):
        with pytest.raises(RequestError, match=message) as caught:
            parse(body)
        assert caught.value.status == 400

    @pytest.mark.parametrize(
        ("changes", "param", "message"),
        [
            ({"input": None}, "input", "texts, got nothing"),
            ({"input": 3}, "input", "texts, got a number"),
            ({"input": {"a": 1}}, "input", "texts, got an object"),
            ({"input": []}, "input", "texts, got an empty list"),
            ({"input": [1, 2]}, "input", "got token ids.*send the texts"),
            ({"input": [[1, 2], [3]]}, "input", "got token ids.*send the texts"),
            ({"input": ["a"] * 4}, "input", "3 at most; got 4"),
            (
                {"input": ["a", None, 2]},
                "input",
                r"input\[1\]: expected a text, got null.*\[2\]",
            ),
            ({"input": ["a", ["b"]]}, "input", r"input\[1\]: expected a text, got a list"),
            ({"model": None}, "model", "expected 'm', got nothing"),
            ({"model": 3}, "model", "expected 'm', got a number"),
            ({"encoding_format": "hex"}, "encoding_format", "'float' or 'base64', got 'hex'"),
            ({"encoding_format": ["float"]}, "encoding_format", "got \\['float'\\]"),
            ({"dimensions": 0}, "dimensions", "from 1 to 8, the width of m, got 0"),
            ({"dimensions": 9}, "dimensions", "from 1 to 8, the width of m, got 9"),
            ({"dimensions": 2.0}, "dimensions", "an integer"),
            ({"dimensions": True}, "dimensions", "an integer"),
            ({"dimensions": "2"}, "dimensions", "an integer"),
            ({"dimension": 2}, "dimension", "argument supplied: dimension. Did you mean 'dimen"),
        ],
    )
    def test_a_wrong_field_is_named(self, changes, param, message):
        with pytest.raises(RequestError, match=message) as caught:
            parse({**RIGHT, **changes})
        assert (caught.value.status, caught.value.param) == (400, param)

    def test_all_faults_are_named_at_once(self):
        with pytest.raises(RequestError, match=r"Unrecognized.*model:.*input:.*dimensions:"):
            parse({"dimensions": 0, "inputs": "a"})

    def test_another_model_is_not_found(self):
        with pytest.raises(RequestError, match="'x' does not exist here") as e:
            parse({"input": "a", "model": "x"})
        assert (e.value.status, e.value.code, e.value.param) == (404, "model_not_found", "model")

    def test_texts_that_cannot_be_embedded_are_named_by_their_index(self):
        error = refuse_texts({4: "no tokens", 2: "not valid Unicode"})
        assert str(error) == "input[2]: not valid Unicode. input[4]: no tokens."
        assert (error.status, error.param) == (400, "input[2]")
        assert "... and 5 more." in str(refuse_texts(dict.fromkeys(range(15), "bad")))


class TestVectors:
    rows = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

    def test_both_encodings_give_every_bit(self):
        for encoding in ("float", "base64"):
            body = write_response("m", EmbeddingRequest([], encoding), self.rows, 7)
            content = json.loads(body)
            found = [each["embedding"] for each in content["data"]]
            if encoding == "base64":
                found = [np.frombuffer(base64.b64decode(each), "<f4") for each in found]
            assert np.array_equal(np.array(found, dtype=np.float32), self.rows)
            assert [each["index"] for each in content["data"]] == [0, 1, 2]
            assert content["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
            assert (content["object"], content["model"]) == ("list", "m")
            assert "truncated" not in content

    def test_texts_that_were_cut_are_told(self):
        body = write_response("m", EmbeddingRequest([]), self.rows, 7, [1])
        assert json.loads(body)["truncated"] == [1]

    def test_leading_features_of_unit_vectors_have_unit_length_again(self):
        unit = self.rows / np.linalg.norm(self.rows, axis=1, keepdims=True)
        expected = [row[:3] / np.sqrt((row[:3].astype(float) ** 2).sum()) for row in unit]
        assert np.allclose(leading(unit, 3), expected, atol=1e-7)

    def test_leading_features_of_other_vectors_are_as_they_were(self):
        assert np.array_equal(leading(self.rows, 3), self.rows[:, :3])
        assert leading(self.rows, None) is self.rows
        assert leading(self.rows, 8) is self.rows

    def test_a_unit_vector_whose_leading_features_are_all_zero_stays_finite(self):
        assert np.array_equal(leading(np.eye(3, dtype=np.float32), 2)[2], [0, 0])
