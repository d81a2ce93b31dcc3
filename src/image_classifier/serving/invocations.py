"""What the body of a request to /invocations may contain: MLflow's four forms of one column."""

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from image_classifier.config.schema import Probability
from image_classifier.serving.errors import Refusal

FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
# A row needs at most three of these characters, as in {"image": "…"}, or in [["…"], …] with an
# index; base64 has none of them.
STRUCTURE, PER_ROW, BESIDES = b",[{", 3, 32


class Part(BaseModel):
    """Known keys with values of the right type."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Row(Part):
    """One image, in base64."""

    image: str


Rows = Annotated[list[Row], Field(min_length=1)]


class Column(Part):
    """All images, each in base64."""

    image: Annotated[list[str], Field(min_length=1)]


class Split(Part):
    """A table as pandas writes it with orient="split"."""

    columns: tuple[Literal["image"]]
    data: Annotated[list[tuple[str]], Field(min_length=1)]
    index: list[int | str] = []


class Parameters(Part):
    """What a request sets for itself; without a threshold, the model's own decides."""

    threshold: Probability | None = None


class Invocation(Part):
    """Exactly one of the four forms, and optional parameters."""

    dataframe_records: Rows = []
    dataframe_split: Split | None = None
    inputs: Rows | Column = []
    instances: Rows = []
    params: Parameters = Parameters()

    @model_validator(mode="after")
    def _one_form(self) -> "Invocation":
        if len(self.model_fields_set.intersection(FORMS)) != 1:
            raise ValueError(f"send exactly one of {', '.join(FORMS)}")
        if not self.images:
            raise ValueError("send at least one image")
        return self

    @property
    def images(self) -> list[str]:
        """The images, in base64."""
        if self.dataframe_split:
            return [row[0] for row in self.dataframe_split.data]
        if isinstance(self.inputs, Column):
            return self.inputs.image
        return [row.image for row in self.dataframe_records or self.inputs or self.instances]


FORM = Invocation.model_json_schema(ref_template="#/components/schemas/{model}")
SCHEMAS = FORM.pop("$defs")  # of its parts
DOCUMENTATION = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": FORM}}}
}


def read(body: bytes, maximum_images: int) -> tuple[list[str], float | None]:
    """Return the images of a request, in base64, and the threshold that it sets.

    Args:
        body: The JSON text.
        maximum_images: Limits the number of values and how deep they are nested; `ImageService`
            counts the images themselves.

    Raises:
        Refusal: the body is not JSON, or not one of the forms.
    """
    signs = np.frombuffer(body, np.uint8)
    values = sum(np.count_nonzero(signs == sign) for sign in STRUCTURE)
    if values > PER_ROW * maximum_images + BESIDES:
        raise Refusal(
            400,
            f"the JSON has more values than needed for {maximum_images} images, the most that one "
            f"request may have. An image is one text: send the base64 of an image file, not lists "
            f"of bytes or pixels; and not more images",
        )
    try:
        found = Invocation.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refusal(400, _explain(first)) from None
    return found.images, found.params.threshold


def document(app: FastAPI) -> None:
    """Add the forms of a request to an application's OpenAPI document."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        found = original()
        found["components"]["schemas"] |= SCHEMAS
        return found

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's manual says


def _explain(error: Any) -> str:
    # pydantic adds the type of a union's alternative, such as list[Row], which is not a key
    place = ".".join(str(part) for part in error["loc"] if str(part) == str(part).lower())
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type":
        message = "send one text for each image: the base64 of an image file"
    return f"{place}: {message}" if place else message
