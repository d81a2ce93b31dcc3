"""Prints docs/configuration.md: every key with type, range and default, and what conf/ says of it.

python docs/configuration.py > docs/configuration.md
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from image_classifier.config import CONF, compose, flatten, from_hydra
from image_classifier.schema import Config

HEAD = """# Every setting

Made by `make params` from `conf/` and the typed configuration; do not edit it. Give a setting on
the command line, as in `dvc exp run -S training.epochs=20`, or choose a file of `conf/` for a
whole section, as in `dvc exp run -S augmentation=crop`.
"""
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true, false"}


def settings(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each key of a section, and what it may be."""
    for name, entry in schema["properties"].items():
        yield name, kind(entry, definitions)


def kind(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return in words what a key may be, from its JSON schema."""
    if "$ref" in entry:
        entry = definitions[entry["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in entry:
        return " or ".join(kind(part, definitions) for part in entry["anyOf"])
    if "enum" in entry or "const" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "null":
        return "`null`"
    if entry.get("type") == "array":
        return f"list of {kind(entry['items'], definitions)}"
    if entry.get("type") == "object":
        return "a section"
    words = WORDS[entry["type"]]
    bounds = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "to",
        "exclusiveMaximum": "and below",
    }
    given = [f"{text} {entry[key]}" for key, text in bounds.items() if key in entry]
    return " ".join([words, *given])


def default_choices() -> dict[str, str]:
    """Return the file that conf/config.yaml chooses for each section, where it names one."""
    main: Any = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    choices = [entry for entry in main["defaults"] if entry != "_self_"]
    return {section: str(file) for entry in choices for section, file in entry.items()}


def comments(section: str, choice: str) -> dict[str, str]:
    """Return what the files of a section say of its keys; the file that is chosen comes first."""
    choice = choice or default_choices().get(section, "")
    files = sorted((CONF / section).glob("*.yaml"), key=lambda file: (file.stem != choice, file))
    found: dict[str, str] = {}
    for text in [*(file.read_text() for file in files), inline(section)]:
        above: list[str] = []
        for line in text.splitlines():
            setting = re.match(r"([a-z_]+):([^#]*)(?:# (.*))?$", line)
            if setting and (told := setting[3] or " ".join(above)):
                found.setdefault(setting[1], told)
            above = [*above, line[2:]] if line.startswith("# ") else []
    return found


def inline(section: str) -> str:
    """Return a section that conf/config.yaml has itself."""
    match = re.search(rf"(?m)^{section}:.*\n((?:  .*\n)+)", (CONF / "config.yaml").read_text())
    return re.sub("(?m)^  ", "", match[1]) if match else ""


def reference() -> str:
    """Return the page."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    lines = [HEAD]
    for section, entry in schema["properties"].items():
        names = [part["$ref"] for part in entry.get("oneOf", [entry]) if "$ref" in part]
        files = sorted(file.stem for file in (CONF / section).glob("*.yaml"))
        lines.append(f"## {section}\n")
        if files:
            lines.append(f"Files: {', '.join(f'`{section}={file}`' for file in files)}\n")
        if not names:
            lines.append("A section for each name: `path`, or `url`, `revision`, `subfolder` and "
                         "`timeout_seconds`, as in `dataset`.\n")  # fmt: skip
        for name in names:
            part = definitions[name.rsplit("/", 1)[1]]
            choice = part["properties"].get("name", {}).get("const", "")
            defaults = flatten(from_hydra(compose([f"model={choice}"] if choice in files else [])))
            told = comments(section, choice)
            if len(names) > 1:
                lines.append(f"`{section}={choice}`:\n")
            lines += ["| key | may be | default | |", "|---|---|---|---|"]
            for key, may_be in settings(part, definitions):
                default = defaults.get(f"{section}.{key}")
                lines.append(f"| `{key}` | {may_be} | `{json.dumps(default)}` | {told[key]} |")
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
