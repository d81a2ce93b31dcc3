"""serve: classifies images over HTTP with a registered model, by default the champion.

    image-classifier serve
    image-classifier serve --model models:/NAME/3 --port 5001

Runs MLflow's scoring server, with limits on what clients may send: the section `serving` of
params.yaml. Checks that the model's files are what was registered before it uses any of them.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from image_classifier.config.compose import load
from image_classifier.config.schema import Serving
from image_classifier.errors import InputError

if TYPE_CHECKING:
    from image_classifier.serving.app import App

BACKLOG = 2048  # connections that wait to be accepted
NOTE = (
    "Images count as independent. Of images from the same source, one of twenty tests says drift: "
    "if you ask again and again, expect false alarms, and look whether they stay."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--model", help="models:/NAME/VERSION or models:/NAME@ALIAS; default: the champion"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=port_number, default=5001, help="port to listen on")


def run(arguments: argparse.Namespace) -> int:
    """Run the command until a signal ends it; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = load()
    name = arguments.model or f"models:/{config.tracking.registered_model}@champion"
    try:
        with open_port(arguments.host, arguments.port) as port:
            serve(name, config.serving, port)
    except KeyboardInterrupt:  # also after SIGTERM
        pass
    return 0


def port_number(text: str) -> int:
    """Return a number from 0 (any free port) to 65535, for argparse."""
    if not 0 <= int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 65535")
    return int(text)


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; nobody can connect to it yet.

    Raises:
        InputError: the port is in use, or the address is not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        family, kind, protocol, _, address = found
        # with the protocol's number, asyncio knows that this is TCP, and does not delay answers
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise unavailable(f"{host}:{port}", error) from None
    return bound


def unavailable(address: str, error: OSError) -> InputError:
    """Return the error for an address on which the server cannot listen."""
    return InputError(
        f"{address} cannot be opened: {error.strerror}. Choose another --port or --host."
    )


async def warm(app: "App", body: bytes) -> None:
    """Send one request through the application, so that the first client does not wait.

    Raises:
        InputError: the request was refused.
    """
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    status, answer = 200, b""

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": headers}
    await app(scope | {"query_string": b"", "root_path": "", "http_version": "1.1"}, receive, send)
    if status != 200:
        raise InputError(
            f"The limits of the server refuse the model's own example: "
            f"{json.loads(answer)['message']} Increase that limit in conf/serving/default.yaml, "
            f"then run `make params`."
        )


def drift_answers(model: Any, limits: Serving) -> Callable[[], bytes]:
    """Return a function with the answer to `GET /drift`; see `image-classifier drift`.

    As long as no image is added, the answer stays the same, and is computed once.

    Args:
        model: The served python model; from now on it keeps measurements of its images.
        limits: Says of how many.
    """
    from image_classifier.evaluation.drift import FEWEST, measure_drift
    from image_classifier.known_images import NOT_KNOWN
    from image_classifier.serving.recent_images import RecentImages
    from image_classifier.serving.request_body import Refusal

    reason = ""
    if limits.drift_images < FEWEST:
        reason = (
            f"There is no /drift: the setting serving.drift_images is {limits.drift_images}, and "
            f"{FEWEST} images are needed."
        )
    elif not hasattr(model, "recent"):  # the code that is stored with it is older
        reason = (
            "There is no /drift: this model was registered by an older version of this package. "
            "`dvc repro -f -s evaluate` registers the current model again."
        )
    elif model.classifier.known is None:
        reason = f"There is no /drift: this model {NOT_KNOWN}"
    elif len(model.classifier.known.sample) < FEWEST:
        reason = f"There is no /drift: the model knows fewer than {FEWEST} images."
    else:
        model.recent = RecentImages(limits.drift_images)
    last: tuple[int, bytes] = (-1, b"")

    def answer() -> bytes:
        nonlocal last
        if reason:
            raise Refusal(404, reason)
        added, new = model.recent.all()
        if new is None or len(new) < FEWEST:
            return json.dumps({"images": added, "needed": FEWEST}).encode()
        if added != last[0]:
            classifier = model.classifier
            found = measure_drift(classifier.known.sample, new, classifier.metadata.classes)
            last = added, json.dumps(found.as_json() | {"note": NOTE}).encode()
        return last[1]

    return answer


def describe(limits: Serving) -> str:
    """Return the limits in words."""
    return (
        f"at most {limits.maximum_images} images and {limits.maximum_body_bytes} bytes a request, "
        f"{limits.maximum_image_bytes} bytes and {limits.maximum_pixels} pixels an image, "
        f"{limits.maximum_requests_at_once} requests at once"
    )


def serve(name: str, limits: Serving, port: socket.socket) -> None:
    """Load a model, and answer requests until a signal ends the process.

    Args:
        name: models:/NAME/VERSION or models:/NAME@ALIAS.
        limits: What clients may send.
        port: A bound socket.

    Raises:
        InputError: the model does not exist, or its files are not what was registered.
    """
    import uvicorn
    from mlflow.pyfunc import scoring_server

    from image_classifier.serving.app import LimitedApp, TimedProtocol
    from image_classifier.tracking.verified_models import load_for_serving

    # after a minute MLflow would answer with an error, but continue to work on the request
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = "86400"
    model, version = load_for_serving(name, limits.image_limits)
    app = LimitedApp(scoring_server.init(model), limits)
    example = {"dataframe_records": [{"image": model.input_example["image"][0]}]}
    settings = uvicorn.Config(
        app,
        http=TimedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="error",
        timeout_keep_alive=limits.read_seconds,
        timeout_graceful_shutdown=limits.queue_seconds,
        backlog=BACKLOG,
    )

    async def answer() -> None:
        await warm(app, json.dumps(example).encode())
        # not earlier: the example does not come from a client
        app.drift = drift_answers(model.unwrap_python_model(), limits)
        host, number = port.getsockname()[:2]
        address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        try:
            port.listen(BACKLOG)
        except OSError as error:  # another process was faster
            raise unavailable(address, error) from None
        print(f"Serving {version.uri} on http://{address}: {describe(limits)}.", flush=True)
        await uvicorn.Server(settings).serve(sockets=[port])

    asyncio.run(answer())
