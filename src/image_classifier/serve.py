"""serve: answers over HTTP with a registered model, by default the champion.

    python -m image_classifier.serve
    python -m image_classifier.serve --model models:/NAME/3 --port 5001

MLflow's scoring server behind limits on what clients may send, the section `serving` of
params.yaml. The model's files are compared with what was registered before any of them is used.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from image_classifier import config
from image_classifier.command_line import explain
from image_classifier.errors import InputError
from image_classifier.schema import Serving

if TYPE_CHECKING:
    from image_classifier.serving.http_limits import App

BACKLOG = 2048  # connections that wait to be accepted


def port_number(text: str) -> int:
    """Return a number from 0, any free port, to 65535, for argparse."""
    if not 0 <= int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return int(text)


def open_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, on which nobody can connect yet.

    Raises:
        InputError: the port is taken, or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        family, kind, protocol, _, address = found
        # without the protocol's number asyncio would not know that this is TCP, and answer slowly
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise unavailable(f"{host}:{port}", error) from None
    return bound


def unavailable(address: str, error: OSError) -> InputError:
    """Return what to tell about an address that cannot be listened on."""
    return InputError(
        f"{address} cannot be opened: {error.strerror}. Give another --port or --host."
    )


async def warm(app: "App", body: bytes) -> None:
    """Send one request through the application, so that the first client does not wait.

    Raises:
        InputError: it was refused.
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
            f"The model's own example is refused: {json.loads(answer)['message']} "
            f"Raise that limit in the section serving of {config.PARAMS}."
        )


def describe(limits: Serving) -> str:
    """Return the limits in words."""
    return (
        f"at most {limits.maximum_images} images and {limits.maximum_body_bytes} bytes a request, "
        f"{limits.maximum_image_bytes} bytes and {limits.maximum_pixels} pixels an image, "
        f"{limits.maximum_requests_at_once} requests at once"
    )


def serve(name: str, limits: Serving, port: socket.socket) -> None:
    """Load a model and answer until a signal ends it.

    Args:
        name: models:/NAME/VERSION or models:/NAME@ALIAS.
        limits: On what clients may send.
        port: A bound socket.

    Raises:
        InputError: the model is not there, or its files are not what was registered.
    """
    import uvicorn
    from mlflow.pyfunc import scoring_server

    from image_classifier.serving.http_limits import LimitedApp, TimedProtocol
    from image_classifier.tracking import registry

    # MLflow would forget a request after a minute, and go on working on it beside the next ones
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = "86400"
    model, version = registry.load_verified(name, limits.of_images)
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
        host, number = port.getsockname()[:2]
        address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        try:
            port.listen(BACKLOG)
        except OSError as error:  # somebody else was faster
            raise unavailable(address, error) from None
        print(f"Serving {version.uri} on http://{address}: {describe(limits)}.", flush=True)
        await uvicorn.Server(settings).serve(sockets=[port])

    asyncio.run(answer())


def main() -> None:
    """Run the command line; exit 1 with a message on an InputError."""
    parser = argparse.ArgumentParser(
        prog="serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="models:/NAME/VERSION or models:/NAME@ALIAS; default: the champion"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=port_number, default=5001, help="port to listen on")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = config.load()
        name = arguments.model or f"models:/{settings.tracking.registered_model}@champion"
        with open_port(arguments.host, arguments.port) as port:
            serve(name, settings.serving, port)
    except KeyboardInterrupt:  # also after SIGTERM
        pass
    except (InputError, OSError) as error:
        sys.exit(f"serve: {explain(error)}")


if __name__ == "__main__":
    main()
