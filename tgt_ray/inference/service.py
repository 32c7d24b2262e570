"""The HTTP side of `serve`: reads requests, refuses in one line what can't be used, and answers in JSON.

It knows no Ray: what computes is handed to it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from torch import Tensor

from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.preprocess import Rows
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent

#: Computes the student's scores (B, K) of model inputs (B, ...), or for retrieval their embeddings (B, E).
Compute = Callable[[Tensor], Awaitable[np.ndarray]]
#: Kinds of bodies.
JSON, FORM = "application/json", "multipart/form-data"
#: The field of a form that has an image.
IMAGES = "images"


@dataclass(frozen=True)
class Limits:
    """Says how much a request may have.

    - megabytes: of its body
    - inputs: or queries
    """

    megabytes: float = 16.0
    inputs: int = 256

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 1e6)


class Predict(Config):
    """Inputs whose classes are wanted."""

    inputs: list[Any] = Field(description="texts, pairs of texts, or images")
    top: int = Field(1, ge=1, description="how many classes to name for each input")
    probabilities: bool = Field(False, description="whether to give the probability of each class")


class Search(Config):
    """Queries whose documents are wanted."""

    queries: list[Any] = Field(description="texts")
    k: int = Field(10, ge=1, description="how many documents to find for each query")


class Guess(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Prediction(Guess):
    """The most likely class of an input."""

    top: list[Guess] | None = Field(None, description="the most likely classes, where more than one was asked for")
    probabilities: dict[str, float] | None = Field(None, description="of each class, where they were asked for")


class Predictions(BaseModel):
    """A prediction for each input, in their order."""

    predictions: list[Prediction]
    cut: int = Field(0, description="texts that are longer than the student reads; their ends weren't used")


class Document(BaseModel):
    """A document that was found."""

    id: str
    text: str
    score: float


class Results(BaseModel):
    """Documents for each query, in their order, the best first."""

    results: list[list[Document]]
    cut: int = Field(0, description="queries that are longer than the student reads; their ends weren't used")


class Health(BaseModel):
    """Says that the service answers."""

    status: str = "ok"


class Refused(BaseModel):
    """Says in one line why a request is refused."""

    detail: str


def make_app(student: LoadedStudent | LoadedRetriever, compute: Compute, limits: Limits) -> FastAPI:
    """Make the application that answers for a student.

    - compute: what the student's network says of model inputs; many requests may wait for it at once
    """
    # FastAPI's own pages load their scripts from the internet.
    app = FastAPIOffline(
        redoc_url=None,
        title=f"tgt-ray: {student.experiment.task.type}",
        description=_description(student, limits),
        version=metadata.version("tgt-ray"),
        swagger_ui_parameters={"validatorUrl": None},
    )

    async def refused(request: Request, err: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(err)}, 422)

    app.add_exception_handler(ConfigError, refused)

    @app.get("/health", response_model=Health)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    if isinstance(student, LoadedRetriever):
        _add_search(app, student, compute, limits)
    else:
        _add_predict(app, student, compute, limits)
    return app


def _description(student: LoadedStudent | LoadedRetriever, limits: Limits) -> str:
    if isinstance(student, LoadedRetriever):
        does = f"Finds those of {len(student.documents):,} documents that answer a query."
    else:
        does = f"Sorts {kind_of(student)} into {len(student.classes):,} classes."
    return (
        f"{does} A request has at most {limits.inputs:,} inputs and {limits.megabytes:g} MB. What can't be used is"
        " refused with status 422 and one line."
    )


def kind_of(student: LoadedStudent | LoadedRetriever) -> str:
    """Name the inputs of a student."""
    if student.modality == "image":
        return "images"
    return "pairs of texts" if student.experiment.task.pair_column is not None else "texts"


def _add_predict(app: FastAPI, student: LoadedStudent, compute: Compute, limits: Limits) -> None:
    async def predict(request: Request) -> JSONResponse:
        asked = await _read(request, Predict, student, limits)
        most = len(student.classes)
        if asked.top > most:
            raise ConfigError(f"top: {asked.top}; expected a number from 1 to {most}, the number of classes")
        field = IMAGES if any(isinstance(each, Upload) for each in asked.inputs) else "inputs"
        rows = await asyncio.to_thread(_model_inputs, student, asked.inputs, field, limits)
        found = list(_answers(student, await compute(rows.inputs), asked)) if rows.places else []
        return JSONResponse({"predictions": found, **_cut(student, rows)})

    about = "texts, or pairs of texts" if student.modality == "text" else "images, as base64 of their files"
    bodies: dict[str, Any] = {JSON: {"schema": _schema(Predict, "inputs", student)}}
    if student.modality == "image":
        bodies[FORM] = {"schema": _form_schema()}
    _route(app, "/predict", predict, Predictions, f"Predict the class of {about}.", bodies)


def _add_search(app: FastAPI, student: LoadedRetriever, compute: Compute, limits: Limits) -> None:
    async def search(request: Request) -> JSONResponse:
        asked = await _read(request, Search, student, limits)
        most = len(student.documents)
        if asked.k > most:
            raise ConfigError(f"k: {asked.k}; expected a number from 1 to {most}, the number of documents")
        rows = await asyncio.to_thread(_model_inputs, student, asked.queries, "queries", limits)
        found: list[list[dict[str, Any]]] = [[] for _ in rows.places]
        if rows.places:
            table = await asyncio.to_thread(student.nearest, await compute(rows.inputs), asked.k)
            for query, *document in table[["query", "id", "text", "score"]].itertuples(index=False):
                found[query].append(dict(zip(("id", "text", "score"), document, strict=True)))
        return JSONResponse({"results": found, "cut": rows.cut})

    bodies = {JSON: {"schema": _schema(Search, "queries", student)}}
    _route(app, "/search", search, Results, "Find documents that answer queries.", bodies)


def _route(
    app: FastAPI,
    path: str,
    handler: Callable[[Request], Awaitable[JSONResponse]],
    answer: type[BaseModel],
    summary: str,
    bodies: dict[str, Any],
) -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        413: {"model": Refused, "description": "The body is too large"},
        415: {"model": Refused, "description": "The body is of another kind"},
        422: {"model": Refused, "description": "Something can't be used; the line names it"},
    }
    app.post(
        path,
        summary=summary,
        response_model=answer,
        responses=refusals,
        openapi_extra={"requestBody": {"required": True, "content": bodies}},
    )(handler)


def _schema(asked: type[Config], name: str, student: LoadedStudent | LoadedRetriever) -> dict[str, Any]:
    """Return the JSON Schema of a body, with what this student takes."""
    schema: dict[str, Any] = asked.model_json_schema()
    items: dict[str, Any] = {"type": "string"}
    if student.modality == "image":
        items |= {"description": "base64 of an image's file", "contentEncoding": "base64"}
    elif isinstance(student, LoadedStudent) and student.experiment.task.pair_column is not None:
        items = {"type": "array", "items": items, "minItems": 2, "maxItems": 2}
    schema["properties"][name] |= {"items": items}
    return schema


def _form_schema() -> dict[str, Any]:
    schema: dict[str, Any] = Predict.model_json_schema()
    del schema["properties"]["inputs"]
    files = {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}
    schema["properties"][IMAGES] = {**files, "description": "files of images"}
    schema["required"] = [IMAGES]
    return schema


async def _read(request: Request, asked: type[Any], student: LoadedStudent | LoadedRetriever, limits: Limits) -> Any:
    """Read what a request asks for.

    - raises ConfigError, HTTPException: where it can't be used
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    takes = (JSON, FORM) if student.modality == "image" else (JSON,)
    if kind not in takes:
        raise HTTPException(415, f"content-type: '{kind}'; expected {' or '.join(takes)}")
    body = await _body(request, limits)
    if kind == FORM:
        return await _form(request, body, limits)
    return await asyncio.to_thread(_of_json, asked, body)


async def _body(request: Request, limits: Limits) -> bytes:
    """Read a request's body, and no more of it than is allowed."""
    said = request.headers.get("content-length", "")
    too_large = HTTPException(413, f"body: has more than {limits.megabytes:g} MB; send fewer inputs at once")
    if said.isdecimal() and int(said) > limits.bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limits.bytes:
            raise too_large
    return bytes(body)


def _of_json(asked: type[Config], body: bytes) -> Config:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"body: not JSON ({err})") from err
    if not isinstance(data, dict):
        example = next(iter(asked.model_fields))
        raise ConfigError(f'body: not a JSON object; expected one such as {{"{example}": [...]}}')
    return validate(asked, data)


async def _form(request: Request, body: bytes, limits: Limits) -> Predict:
    """Read images and options of a form."""

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    images: list[Upload] = []
    options: dict[str, Any] = {}
    scope = {key: value for key, value in request.scope.items() if key != "app"}  # errors are said below
    try:
        async with Request(scope, again).form(max_files=limits.inputs) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile) and name == IMAGES:
                    images.append(Upload(value.filename or "", await value.read()))
                elif isinstance(value, UploadFile):
                    raise ConfigError(f"{name}: is a file; send images in fields of the name '{IMAGES}'")
                elif name in (IMAGES, "inputs"):
                    raise ConfigError(f"{name}: is a text; send files in fields of the name '{IMAGES}'")
                else:
                    options[name] = value
    except MultiPartException as err:
        raise ConfigError(f"body: not a readable form ({err.message})") from err
    return validate(Predict, {"inputs": images, **options})


@dataclass(frozen=True)
class Upload:
    """An image that came as a file."""

    name: str
    content: bytes


def _model_inputs(student: LoadedStudent | LoadedRetriever, items: list[Any], field: str, limits: Limits) -> Rows:
    """Turn the inputs of a request into those of the student's network.

    - field: their name in the request
    - raises ConfigError: for the first one that can't be used, by its place
    """
    if len(items) > limits.inputs:
        raise ConfigError(f"{field}: has {len(items):,}; expected at most {limits.inputs:,} in a request")

    def bad(place: int, why: str) -> None:
        item = items[place]
        name = f" ({item.name})" if isinstance(item, Upload) and item.name else ""
        raise ConfigError(f"{field}[{place}]{name}: {why}")

    taken = [_content(item, place) for place, item in enumerate(items)] if student.modality == "image" else items
    for rows in student.preprocess.batches(taken, max(1, len(taken)), bad):
        return rows
    return Rows([], student.preprocess.empty())


def _content(item: Any, place: int) -> bytes:
    """Return the bytes of an image's file. A text is never taken for the path of one."""
    if isinstance(item, Upload):
        return item.content
    if not isinstance(item, str):
        raise ConfigError(f"inputs[{place}]: {type(item).__name__}; expected the base64 of an image's file")
    text = item.partition(",")[2] if item.startswith("data:") else item
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise ConfigError(f"inputs[{place}]: not base64 ({err}); expected the base64 of an image's file") from err


def _answers(student: LoadedStudent, scores_NK: np.ndarray, asked: Predict) -> Iterator[dict[str, Any]]:
    likely = student.calibrated(scores_NK)
    best = np.argsort(-likely, axis=1, kind="stable")[:, : asked.top]
    for row, order in zip(likely.tolist(), best.tolist(), strict=True):
        guesses = [{"label": student.classes[k], "probability": row[k]} for k in order]
        answer: dict[str, Any] = dict(guesses[0])
        if asked.top > 1:
            answer["top"] = guesses
        if asked.probabilities:
            answer["probabilities"] = dict(zip(student.classes, row, strict=True))
        yield answer


def _cut(student: LoadedStudent, rows: Rows) -> dict[str, int]:
    return {"cut": rows.cut} if student.modality == "text" else {}
