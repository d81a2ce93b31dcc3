"""What the body of a request to /invocations may contain: MLflow's four forms of one column."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from image_classifier.config.schema import Probability

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
        return self


def validate(body: bytes | bytearray, maximum_images: int) -> str | None:
    """Return what is wrong with a request's body, or None.

    Args:
        body: The JSON text.
        maximum_images: Limits the number of values and how deep they are nested; the model counts
            the images themselves.
    """
    if sum(body.count(sign) for sign in STRUCTURE) > PER_ROW * maximum_images + BESIDES:
        return (
            f"the JSON has more values than needed for {maximum_images} images, the most that one "
            f"request may have. An image is one text: send the base64 of an image file, not lists "
            f"of bytes or pixels; and not more images"
        )
    try:
        Invocation.model_validate_json(body)
    except ValidationError as error:
        return _explain(error.errors(include_url=False, include_input=False)[0])
    return None


def _explain(error: Any) -> str:
    # pydantic adds the type of a union's alternative, such as list[Row], which is not a key
    place = ".".join(str(part) for part in error["loc"] if str(part) == str(part).lower())
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type":
        message = "send one text for each image: the base64 of an image file"
    return f"{place}: {message}" if place else message
