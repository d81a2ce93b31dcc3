"""The access log and the metrics of requests."""

import json
import os
import sys
import time

from image_classifier.serving import metrics
from image_classifier.serving.body import App, Message, Receive, Send
from image_classifier.serving.predictions_log import now


class Logged:
    """An ASGI application that counts, times and logs the requests to another one."""

    def __init__(self, app: App, paths: set[str], access_log: bool) -> None:
        """Store the other application, its paths, and whether a line is printed a request."""
        self.app = app
        self.paths = paths
        self.access_log = access_log

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        method, start = scope["method"], time.perf_counter()
        status, size = 0, 0  # 0: the client disconnected before the answer

        async def answer(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        if method == "HEAD":  # the server leaves out the body
            scope = {**scope, "method": "GET"}
        try:
            await self.app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            # any other path would make a metric of its own
            path = scope["path"] if scope["path"] in self.paths else "other"
            known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
            metrics.REQUESTS.labels(path, known, status).inc()
            metrics.REQUEST_SECONDS.labels(path).observe(seconds)
            if self.access_log:
                headers = dict(scope["headers"])
                line = {
                    "time": now(),
                    "client": (scope.get("client") or [""])[0],
                    "method": method,
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round(1000 * seconds, 3),
                    "request_bytes": int(headers.get(b"content-length", 0)),
                    "answer_bytes": size,
                    "user_agent": headers.get(b"user-agent", b"").decode("latin-1"),
                    "process": os.getpid(),
                }
                # in one piece: other processes print, too
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
