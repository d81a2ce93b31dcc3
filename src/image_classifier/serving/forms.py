"""The images in a request to /classify: one file as the body, or the files of a form."""

import io

from multipart import MultipartError, MultipartParser, parse_options_header

from image_classifier.serving.errors import Refusal

# the first one is the default of curl --data-binary
FILES = ("application/x-www-form-urlencoded", "application/octet-stream", "application/dicom")
FORM = "multipart/form-data"
DOCUMENTATION = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
ADVICE = (
    "Send an image file as the body (Content-Type: image/jpeg), or as a form "
    "(Content-Type: multipart/form-data). JSON goes to /invocations."
)


def is_json(content_type: str) -> bool:
    """Return whether a request with this header contains JSON."""
    return str(parse_options_header(content_type)[0]).lower() == "application/json"


def check(content_type: str) -> None:
    """Check that a request with this header may contain images.

    Raises:
        Refusal: it may not.
    """
    kind = parse_options_header(content_type)[0].lower()
    if kind not in (*FILES, FORM) and not kind.startswith("image/"):
        raise Refusal(415, ADVICE)


def files_of(body: bytes, content_type: str, maximum_images: int) -> list[bytes]:
    """Return the files in the body of a request, at least one, in their order.

    Raises:
        Refusal: the form is damaged, has no file, or more parts than images are allowed.
    """
    kind, options = parse_options_header(content_type)
    if kind.lower() != FORM:
        return [body]
    size = len(body) + 1  # all of it stays in memory, none in temporary files
    try:
        form = MultipartParser(
            io.BytesIO(body),
            options.get("boundary", ""),
            part_limit=maximum_images,
            spool_limit=size,
            memory_limit=size,
            disk_limit=0,
            strict=True,
        )
        files = [part.raw for part in form if part.filename]
    except MultipartError as error:
        raise Refusal(400, f"The form cannot be read: {error}.") from None
    if not files:
        raise Refusal(400, "The form has no file: curl -F image=@FILE sends one.")
    return files
