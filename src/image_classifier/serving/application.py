"""The HTTP application: which requests there are, and how each is answered."""

import asyncio
import json
from asyncio import Semaphore, timeout
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

import mlflow
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from markdown_it import MarkdownIt
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from image_classifier.config.schema import Probability, Serving
from image_classifier.project import paths
from image_classifier.serving import forms, invocations, metrics
from image_classifier.serving.access_log import Logged
from image_classifier.serving.body import LimitedBodies, Message, too_busy
from image_classifier.serving.errors import Disconnected, Refusal
from image_classifier.serving.image_service import BadRequest, ImageService
from image_classifier.serving.prediction import Prediction
from image_classifier.serving.predictions_log import PredictionsLog
from image_classifier.serving.recent_images import RecentImages

LONGEST_MESSAGE = 500
CARD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Model card</title>
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<style>body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem sans-serif }}
td, th {{ padding: 0.2rem 0.8rem 0.2rem 0; text-align: left }}</style>
<body>{}</body></html>
"""
# the page loads nothing from elsewhere, and no other site can show it inside its own page
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Served:
    """A version that is served.

    Attributes:
        uri: Its address, models:/NAME/VERSION.
        service: Classifies images with it.
        recent: What is measured of the last images.
        drift: Returns the answer to GET /drift; may raise a Refusal.
        explain: Returns a heat map of an image file on top of the image, as a PNG.
        card: The model card, in Markdown.
        report: The report of its evaluation, as HTML; None if the run has none.
    """

    uri: str
    service: ImageService
    recent: RecentImages
    drift: Callable[[RecentImages], bytes]
    explain: Callable[[bytes], bytes]
    card: str
    report: str | None


class Current:
    """The version that is served now; a reload replaces it between two requests."""

    def __init__(self, served: Served) -> None:
        """Store the first version."""
        self.served = served


class Answer(BaseModel):
    """One prediction for each image, in the order of the request."""

    predictions: list[Prediction]


class Error(BaseModel):
    """What was wrong with a request."""

    error_code: str
    message: Annotated[str, Field(max_length=LONGEST_MESSAGE)]


def application(current: Current, limits: Serving) -> Logged:
    """Return the ASGI application.

    Args:
        current: The version that answers.
        limits: What clients may send, what is logged, and who may ask from another site.
    """
    app = FastAPIOffline(
        title="Image classifier",
        version=mlflow.__version__,
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Error} for status in (400, 408, 413, 415, 429)},
    )
    turns, drift_turn = Semaphore(limits.maximum_requests_at_once), Semaphore(1)
    threads = ThreadPoolExecutor(limits.maximum_requests_at_once + 1)
    log = None
    if limits.predictions_log:
        log = PredictionsLog(paths.project() / paths.expanded(limits.predictions_log))

    @asynccontextmanager
    async def turn_of(turns: Semaphore) -> AsyncIterator[None]:
        try:
            async with timeout(limits.queue_seconds):
                await turns.acquire()
        except TimeoutError:
            raise too_busy(limits) from None
        try:
            yield
        finally:
            turns.release()

    async def work(request: Request, function: Callable[[bytes], bytes]) -> bytes:
        """Read the body of a request, wait for its turn, and call a function in a thread."""
        body = request.state.body
        content = await body.read(int(request.headers.get("content-length", 0)))
        gone = asyncio.ensure_future(body.receive())  # ends when the client disconnects
        try:
            async with turn_of(turns):
                if gone.done():
                    raise Disconnected
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, function, content)
        except BadRequest as error:
            raise Refusal(400, str(error)) from None
        finally:
            gone.cancel()

    def predictions(served: Served, images: list[Any], threshold: float | None) -> bytes:
        found = served.service.classify(images, threshold)
        served.recent.add(found.outputs)
        percentile = served.service.classifier.metadata.unusual_percentile
        metrics.count(served.uri, found.predictions, percentile)
        if log:
            log.write(served.uri, found, threshold)
        return json.dumps({"predictions": found.predictions}).encode()

    def in_json(served: Served, content: bytes) -> Response:
        return Response(content, media_type="application/json", headers={"x-model": served.uri})

    @app.post(
        "/invocations",
        response_model=Answer,
        openapi_extra=invocations.DOCUMENTATION,
        summary="Classify images in base64, in JSON as MLflow's scoring server takes it",
    )
    async def invoke(request: Request) -> Response:
        if not forms.is_json(request.headers.get("content-type", "")):
            raise Refusal(415, "Send JSON, with the header Content-Type: application/json.")
        served = current.served

        def answer(body: bytes) -> bytes:
            images, threshold = invocations.read(body, limits.maximum_images)
            return predictions(served, images, threshold)

        return in_json(served, await work(request, answer))

    @app.post(
        "/classify",
        response_model=Answer,
        openapi_extra=forms.DOCUMENTATION,
        summary="Classify an image file, or the files of a form",
    )
    async def classify(
        request: Request, threshold: Annotated[Probability | None, Query()] = None
    ) -> Response:
        kind = request.headers.get("content-type", "")
        forms.check(kind)
        served = current.served

        def answer(body: bytes) -> bytes:
            images = forms.files_of(body, kind, limits.maximum_images)
            return predictions(served, images, threshold)

        return in_json(served, await work(request, answer))

    @app.post(
        "/explain",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
        openapi_extra=forms.DOCUMENTATION,
        summary="Show which parts of an image are evidence for the predicted class",
    )
    async def explain(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        forms.check(kind)
        served = current.served

        def answer(body: bytes) -> bytes:
            return served.explain(forms.files_of(body, kind, 1)[0])

        content = await work(request, answer)
        return Response(content, media_type="image/png", headers={"x-model": served.uri})

    @app.get("/drift", summary="Test whether the last images come from the usual source")
    async def drift() -> Response:
        served = current.served
        async with turn_of(drift_turn):
            return in_json(served, await asyncio.to_thread(served.drift, served.recent))

    @app.get("/model", summary="Describe the model that answers")
    async def model() -> Response:
        served = current.served
        metadata = served.service.classifier.metadata
        described = {
            "model": served.uri,
            "classes": metadata.classes,
            "threshold": metadata.threshold if len(metadata.classes) == 2 else None,
            "coverage": metadata.coverage,
            "unusual_percentile": metadata.unusual_percentile,
            "image": {"height": metadata.height, "width": metadata.width},
            "has_report": served.report is not None,
            "note": note_of(served.card),
            "limits": limits.image_limits,
        }
        return in_json(served, json.dumps(described).encode())

    @app.get("/ping", summary="Answer with status 200")
    @app.get("/health", include_in_schema=False)
    async def ping() -> Response:
        return PlainTextResponse("\n")

    @app.get("/version", summary="Return the version of MLflow")
    async def version() -> Response:
        return PlainTextResponse(mlflow.__version__)

    @app.get("/metrics", summary="Return metrics for Prometheus")
    async def measured() -> Response:
        return PlainTextResponse(await asyncio.to_thread(metrics.text))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(files(__package__).joinpath("page.html").read_text(), headers=HEADERS)

    @app.get("/card", include_in_schema=False)
    async def card() -> Response:
        text = MarkdownIt("js-default").render(current.served.card)  # shows HTML in it as text
        return HTMLResponse(CARD.format(text), headers=HEADERS)

    @app.get("/report", include_in_schema=False)
    async def report() -> Response:
        if current.served.report is None:
            raise Refusal(404, "The run of this model has no report.")
        return HTMLResponse(current.served.report, headers=HEADERS)

    _answer_errors(app)
    invocations.document(app)
    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type"],
            expose_headers=["x-model", "retry-after"],
        )
    known = {getattr(route, "path", "") for route in app.routes}
    return Logged(LimitedBodies(app, limits), known, limits.access_log)


def note_of(card: str) -> str | None:
    """Return the note about the data with which a model card begins, as text; None without one."""
    first = card.partition("\n")[0]
    return first.strip("> *") if first.startswith("> **") else None


async def warm_up(app: Logged, image: bytes) -> None:
    """Ask for a heat map of an image, so that the first client does not wait.

    It is neither logged nor counted, and whether the limits refuse the image does not matter.
    """
    body = [{"type": "http.request", "body": image, "more_body": False}]

    async def receive() -> Message:
        if not body:
            await asyncio.Event().wait()  # never returns: the client waits for its answer
        return body.pop()

    async def send(message: Message) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/explain",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"image/jpeg")],
    }
    await app.app(scope, receive, send)


def _answer_errors(app: FastAPI) -> None:
    """Give every error the same form."""

    def answer(refusal: Refusal) -> Response:
        return Response(
            refusal.content, refusal.status, refusal.headers, media_type="application/json"
        )

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return answer(Refusal(400, f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            methods = (error.headers or {}).get("Allow", "")
            return answer(Refusal(405, f"{path} accepts only {methods}.", {"allow": methods}))
        if error.status_code == 404:
            known = ", ".join(
                f"{method} {getattr(route, 'path', '')}"
                for route in app.routes
                for method in getattr(route, "methods", None) or ()
                if getattr(route, "include_in_schema", False)
            )
            return answer(Refusal(404, f"Not found. Available: {known}."))
        return answer(Refusal(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:  # uvicorn logs the error
        return answer(Refusal(500, "The server failed on this request; see its log."))
