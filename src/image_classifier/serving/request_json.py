"""What the body of a request to /invocations may hold: MLflow's four forms for one column."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
# A row takes at most three of these signs, as in {"image": "…"}, or in [["…"], …] with an index;
# base64 has none of them.
SIGNS, SIGNS_A_ROW, SIGNS_BESIDES = b",[{", 3, 32


class Part(BaseModel):
    """Values of the right type under known keys."""

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
    """What a request sets for itself."""

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


class Invocation(Part):
    """Exactly one of the four forms, and perhaps parameters."""

    dataframe_records: Rows = []
    dataframe_split: Split | None = None
    inputs: Rows | Column = []
    instances: Rows = []
    params: Parameters = Parameters()

    @model_validator(mode="after")
    def _one_form(self) -> "Invocation":
        if len(self.model_fields_set.intersection(FORMS)) != 1:
            raise ValueError(f"give exactly one of {', '.join(FORMS)}")
        return self


def problem(body: bytes | bytearray, maximum_images: int) -> str | None:
    """Return what is wrong with a request's body, or nothing.

    Args:
        body: The JSON text.
        maximum_images: Bounds how many values are looked at, and how deep they lie in each other;
            the model counts the images themselves.
    """
    if sum(body.count(sign) for sign in SIGNS) > SIGNS_A_ROW * maximum_images + SIGNS_BESIDES:
        return f"more values than {maximum_images} images need: send fewer images in a request"
    try:
        Invocation.model_validate_json(body)
    except ValidationError as error:
        return _explain(error.errors(include_url=False, include_input=False)[0])
    return None


def _explain(error: Any) -> str:
    # pydantic names the alternatives of a union by their type, as list[Row]: not part of the path
    place = ".".join(str(part) for part in error["loc"] if str(part) == str(part).lower())
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
