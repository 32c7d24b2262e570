"""The HTTP side of `serve`, without Ray."""

import asyncio
import base64
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

import tgt_ray
from tests.helpers import retrieval
from tgt_ray.inference.service import Limits, make_app


def client(student, **limits) -> TestClient:
    async def compute(rows):
        await asyncio.sleep(0)
        return student.answers(rows)

    return TestClient(make_app(student, compute, Limits(**limits)))


def png(digits, row: int) -> bytes:
    pixels = np.frombuffer(digits.tables["test"]["image"][row].as_py(), np.uint8).reshape(8, 8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def images(of_digits):
    return tgt_ray.load_student(of_digits.folder)


@pytest.fixture(scope="module")
def texts(of_sentences):
    return tgt_ray.load_student(of_sentences.folder)


@pytest.fixture(scope="module")
def pairs(of_pairs):
    return tgt_ray.load_student(of_pairs.folder)


@pytest.fixture(scope="module")
def finder(beir, encoder, tmp_path_factory):
    config = retrieval.experiment(beir, encoder, explorer={"type": "none"})
    folder = tmp_path_factory.mktemp("storage")
    return tgt_ray.load_student(tgt_ray.run(config, storage=str(folder), name="retrieval", local=True).folder)


def test_images_as_base64_and_as_files(images, digits):
    files = [png(digits, row) for row in range(3)]
    with client(images) as http:
        encoded = [base64.b64encode(file).decode() for file in files]
        asked = {"inputs": [encoded[0], "data:image/png;base64," + encoded[1], encoded[2]], "top": 2}
        of_json = http.post("/predict", json=asked)
        parts = [("images", (f"{n}.png", file)) for n, file in enumerate(files)]
        of_form = http.post("/predict", files=parts, data={"top": "2"})
    assert of_json.status_code == of_form.status_code == 200
    assert of_json.json() == of_form.json()
    expected = images.predict(files, top=2)
    found = of_json.json()["predictions"]
    assert [each["label"] for each in found] == expected["label"].tolist()
    assert [each["top"][1]["label"] for each in found] == expected["label_2"].tolist()
    np.testing.assert_allclose([each["probability"] for each in found], expected["probability"], rtol=1e-5)


def test_texts_and_all_probabilities(texts, sentences):
    rows = [*pq.read_table(sentences / "test.parquet")["text"].to_pylist()[:4], "good " * 60]
    with client(texts) as http:
        answer = http.post("/predict", json={"inputs": rows, "probabilities": True}).json()
        assert http.post("/predict", json={"inputs": []}).json() == {"predictions": [], "cut": 0}
    found = [[each["probabilities"][name] for name in texts.classes] for each in answer["predictions"]]
    np.testing.assert_allclose(found, texts.probabilities(rows), rtol=1e-4)
    assert answer["cut"] == 1 and "top" not in answer["predictions"][0]


def test_pairs(pairs):
    with client(pairs) as http:
        found = http.post("/predict", json={"inputs": [["a good day", "a bad day"]]}).json()["predictions"]
        refused = http.post("/predict", json={"inputs": [["a", "b"], "a"]})
    assert found[0]["label"] == pairs.predict([("a good day", "a bad day")])["label"][0]
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("inputs[1]: expected a pair of texts")


def test_search(finder):
    queries = ["red car ?", "a lamp that is blue ?"]
    with client(finder) as http:
        found = http.post("/search", json={"queries": queries, "k": 3}).json()["results"]
        assert http.post("/search", json={"queries": []}).json()["results"] == []
        too_many = http.post("/search", json={"queries": queries, "k": 999})
        assert http.post("/predict", json={"inputs": queries}).status_code == 404
    expected = finder.search(queries, 3)
    assert [each["id"] for one in found for each in one] == expected["id"].tolist()
    np.testing.assert_allclose([each["score"] for one in found for each in one], expected["score"], rtol=1e-4)
    assert too_many.status_code == 422
    assert too_many.json()["detail"] == "k: 999; expected a number from 1 to 48, the number of documents"


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"inputs": [3]}, "inputs[0]: int; expected the base64 of an image's file"),
        ({"inputs": ["/etc/passwdd"]}, "inputs[0]: not a readable image (no image that Pillow can read)"),
        ({"inputs": ["a.png"]}, "inputs[0]: not base64 ("),
        ({"inputs": ["aGVsbG8="]}, "inputs[0]: not a readable image ("),
        ({"inputs": "aGVsbG8="}, "inputs: Input should be a valid list"),
        ({"input": []}, "unknown key 'input'; did you mean 'inputs'?"),
        ({}, "inputs: Field required"),
        ({"inputs": [], "top": 0}, "top: Input should be greater than or equal to 1 (got 0)"),
        ({"inputs": [], "top": 11}, "top: 11; expected a number from 1 to 10, the number of classes"),
        ({"inputs": ["a"] * 5}, "inputs: has 5; expected at most 4 in a request"),
        ([], 'body: not a JSON object; expected one such as {"inputs": [...]}'),
    ],
)
def test_what_can_not_be_used_is_named_in_one_line(images, asked, said):
    with client(images, inputs=4) as http:
        answer = http.post("/predict", json=asked)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said) and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("text, said", [(None, "no text; expected a text"), ("\ud800", "has half of a character at 0")])
def test_a_text_that_is_none_is_named(texts, text, said):
    body = json.dumps({"inputs": ["good", text]})
    with client(texts) as http:
        answer = http.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["detail"].startswith(f"inputs[1]: {said}")


def test_forms_that_can_not_be_used(images, texts, digits):
    with client(images, inputs=2) as http:
        for parts, said in (
            ([("images", ("cat.png", b"torn"))], "images[0] (cat.png): not a readable image"),
            ([("pictures", ("a.png", png(digits, 0)))], "pictures: is a file; send images in fields of the name"),
            ([("images", (f"{n}.png", png(digits, n))) for n in range(3)], "body: not a readable form (Too many files"),
        ):
            answer = http.post("/predict", files=parts)
            assert answer.status_code == 422 and said in answer.json()["detail"]
        answer = http.post("/predict", files=[("images", ("a.png", png(digits, 0)))], data={"topp": "1"})
        assert answer.json()["detail"] == "unknown key 'topp'; did you mean 'top'?"
        torn = http.post("/predict", content=b"torn", headers={"content-type": "multipart/form-data; boundary=x"})
        assert torn.status_code == 422 and "not a readable form" in torn.json()["detail"]
        assert http.post("/predict", content=b"{", headers={"content-type": "application/json"}).status_code == 422
        assert http.post("/predict", content="a").status_code == 415
    with client(texts) as http:
        answer = http.post("/predict", files=[("images", ("a.png", b""))])
        assert answer.status_code == 415
        assert answer.json()["detail"] == "content-type: 'multipart/form-data'; expected application/json"


def test_a_large_body_is_refused_while_it_is_read(texts):
    read = 0

    def parts():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 1000

    with client(texts, megabytes=0.01) as http:
        said = http.post("/predict", json={"inputs": ["a" * 20_000]})
        unsaid = http.post("/predict", content=parts(), headers={"content-type": "application/json"})
    for answer in (said, unsaid):
        assert answer.status_code == 413
        assert answer.json()["detail"] == "body: has more than 0.01 MB; send fewer inputs at once"


def test_the_body_is_not_read_further_than_allowed(texts):
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    app = make_app(texts, None, Limits(megabytes=0.01))
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413 and len(read) == 11


def test_health_and_the_page_of_the_interface_need_no_internet(images, texts, finder):
    for student, path, kind in ((images, "/predict", "images"), (texts, "/predict", "texts"), (finder, "/search", "")):
        with client(student) as http:
            assert http.get("/health").json() == {"status": "ok"}
            interface = http.get("/openapi.json").json()
            page = http.get("/docs").text
            assert "https://" not in page and "/static-offline-docs/swagger-ui-bundle.js" in page
            assert http.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
        assert set(interface["paths"]) == {"/health", path} and kind in interface["info"]["description"]
        post = interface["paths"][path]["post"]
        takes = set(post["requestBody"]["content"])
        assert takes == {"application/json"} | ({"multipart/form-data"} if kind == "images" else set())
        assert set(post["responses"]) == {"200", "413", "415", "422"}
