"""serve: classifies images over HTTP with a registered model, by default the champion.

    image-classifier serve
    image-classifier serve --workers 2
    image-classifier serve --model models:/NAME/3 --port 5001

Open its address in a browser to try it. Checks that the model's files are what was registered
before it uses any of them. What clients may send: the section `serving` of params.yaml.
"""

import argparse
import asyncio
import io
import json
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from image_classifier.config.arguments import count
from image_classifier.config.compose import load
from image_classifier.config.schema import Serving
from image_classifier.errors import InputError
from image_classifier.project import signals
from image_classifier.serving import workers

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier
    from image_classifier.serving.application import Current, Served
    from image_classifier.serving.image_service import ImageService
    from image_classifier.serving.recent_images import RecentImages

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
    parser.add_argument("--workers", type=count, default=1, help="processes; each loads the model")


def run(arguments: argparse.Namespace) -> int:
    """Run the command until a signal ends it; return the exit code."""
    for number in signals.SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # to stop a server is not an error
            signal.signal(number, signal.default_int_handler)
    config = load()
    name = arguments.model or f"models:/{config.tracking.registered_model}@champion"
    limits = config.serving
    try:
        with open_port(arguments.host, arguments.port) as port:
            if arguments.workers == 1:
                serve(name, limits, port, lambda uri: announce(uri, limits, port))
                return 0
            from image_classifier.tracking.verified_models import check_version

            uri = check_version(name)
            return workers.keep_running(
                arguments.workers,
                serve_in_worker,
                (name, limits, port),
                lambda: announce(f"{uri} in {arguments.workers} processes", limits, port),
            )
    except KeyboardInterrupt:
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


def address_of(port: socket.socket) -> str:
    """Return host and number of a port."""
    host, number = port.getsockname()[:2]
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def announce(what: str, limits: Serving, port: socket.socket) -> None:
    """Print what is served, where, and with which limits."""
    print(
        f"Serving {what} on http://{address_of(port)}: at most {limits.maximum_images} images and "
        f"{limits.maximum_body_bytes} bytes a request, {limits.maximum_image_bytes} bytes and "
        f"{limits.maximum_pixels} pixels an image, {limits.maximum_requests_at_once} requests at "
        f"once.",
        flush=True,
    )


def serve_in_worker(
    name: str, limits: Serving, port: socket.socket, ready: Callable[[], None]
) -> None:
    """Serve in a process of several; end it with a message if it cannot."""
    try:
        serve(name, limits, port, lambda uri: ready())
    except InputError as error:
        sys.exit(f"serve: {error}")


def serve(name: str, limits: Serving, port: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Load a model, and answer requests until a signal ends the process.

    Args:
        name: models:/NAME/VERSION or models:/NAME@ALIAS.
        limits: What clients may send.
        port: A bound socket.
        on_ready: Called with the address of the version once clients can connect.

    Raises:
        InputError: the model does not exist, or its files are not what was registered.
    """
    import uvicorn

    from image_classifier.serving.application import Current, application, warm_up
    from image_classifier.serving.protocol import TimedProtocol

    current = Current(load_served(name, limits))
    app = application(current, limits)
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
        for _ in range(3):
            await warm_up(app, current.served.service.example())
        following = asyncio.ensure_future(follow(current, name, limits))
        try:
            port.listen(BACKLOG)
        except OSError as error:  # another process was faster
            raise unavailable(address_of(port), error) from None
        on_ready(current.served.uri)
        await uvicorn.Server(settings).serve(sockets=[port])
        following.cancel()

    asyncio.run(answer())


async def follow(current: "Current", name: str, limits: Serving) -> None:
    """Look every `reload_seconds` whether a name stands for another version, and serve that one.

    Requests that have begun are answered by the version that they began with.
    """
    from image_classifier.serving import metrics
    from image_classifier.tracking.verified_models import find_version

    said = ""
    while limits.reload_seconds and "@" in name:
        await asyncio.sleep(limits.reload_seconds)
        try:
            version = await asyncio.to_thread(find_version, name)
            if version.uri != current.served.uri:
                current.served = await asyncio.to_thread(load_served, name, limits)
                metrics.RELOADS.labels("done").inc()
                said = f"Now serving {current.served.uri}: {name} has changed."
                print(said, flush=True)
        except Exception as error:  # whatever it is, the server goes on with its version
            metrics.RELOADS.labels("failed").inc()
            text = f"Still serving {current.served.uri}: {name} cannot be loaded. {error}"
            if text != said:
                said = text
                print(said, file=sys.stderr, flush=True)


def load_served(name: str, limits: Serving) -> "Served":
    """Load a version, and classify a few images so that the first client does not wait.

    Raises:
        InputError: the model does not exist, or its files are not what was registered.
    """
    from image_classifier.serving import metrics
    from image_classifier.serving.application import Served
    from image_classifier.serving.image_service import ImageService
    from image_classifier.serving.recent_images import RecentImages
    from image_classifier.tracking import version_texts
    from image_classifier.tracking.verified_models import load_classifier

    classifier, version = load_classifier(name)
    service = ImageService(
        classifier,
        limits.image_limits,
        limits.batch_images,
        metrics.BATCH_IMAGES.observe,
        digests=limits.predictions_log is not None,
    )
    service.warm_up()
    return Served(
        version.uri,
        service,
        RecentImages(limits.drift_images),
        drift_answers(classifier, limits),
        lambda content: explain(service, content),
        version_texts.model_card(version),
        version_texts.report(version),
    )


def explain(service: "ImageService", content: bytes) -> bytes:
    """Return an image with a heat map of the evidence for the predicted class, as a PNG.

    Raises:
        BadRequest: the image cannot be read.
    """
    from PIL import Image

    from image_classifier.evaluation import heat_maps

    classifier = service.classifier
    pixels = service.read(0, content).pixels
    chosen = classifier.decide(classifier.probabilities(pixels[None]))
    file = io.BytesIO()
    Image.fromarray(heat_maps.explain(classifier, pixels, chosen)).save(file, "PNG")
    return file.getvalue()


def drift_answers(classifier: "Classifier", limits: Serving) -> "Callable[[RecentImages], bytes]":
    """Return a function with the answer to `GET /drift`; see `image-classifier drift`.

    As long as no image is added, the answer stays the same, and is computed once.

    Args:
        classifier: The model.
        limits: Says how many of the last images are compared.
    """
    from image_classifier.evaluation.drift import FEWEST, measure_drift
    from image_classifier.known_images import NOT_KNOWN
    from image_classifier.serving.errors import Refusal

    known = classifier.known
    reason = ""
    if limits.drift_images < FEWEST:
        reason = (
            f"There is no /drift: the setting serving.drift_images is {limits.drift_images}, and "
            f"{FEWEST} images are needed."
        )
    elif known is None:
        reason = f"There is no /drift: this model {NOT_KNOWN}"
    elif len(known.sample) < FEWEST:
        reason = f"There is no /drift: the model knows fewer than {FEWEST} images."
    last: tuple[int, bytes] = (-1, b"")

    def answer(recent: "RecentImages") -> bytes:
        nonlocal last
        if reason or known is None:
            raise Refusal(404, reason)
        added, new = recent.all()
        if new is None or len(new) < FEWEST:
            return json.dumps({"images": added, "needed": FEWEST}).encode()
        if added != last[0]:
            found = measure_drift(known.sample, new, classifier.metadata.classes)
            last = added, json.dumps(found.as_json() | {"note": NOTE}).encode()
        return last[1]

    return answer
