"""Prints docs/configuration.md: every setting with its type, range, default and description.

python docs/configuration.py > docs/configuration.md
"""

import json
from typing import Any

from image_classifier.config.compose import CONF, config_of, flatten
from image_classifier.config.schema import Config

HEAD = """# Every setting

`make params` writes this page from `src/image_classifier/config/schema.py`: do not edit it.

Change a setting on the command line (`dvc exp run -S training.epochs=20`), or choose a file of
`conf/` for a whole section (`dvc exp run -S augmentation=crop`). The first lines of each file say
what it is for.

A value with spaces, commas, brackets or other signs needs quotes of its own, inside those of the
shell: `-S "dataset.path='/data/chest x-rays (1)'"`, `-S "dataset.group_pattern='case_(\\d+)'"`.
So does a text that looks like a number or a truth value: `-S "dataset.positive_class='1'"`.

In paths, `~` is the home folder, and relative paths begin in the project's folder, in queued
experiments too: see [design](design.md#data-flow).
"""
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false"}


def values(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return in words which values a setting takes, from its JSON schema."""
    if "$ref" in entry:
        entry = definitions[entry["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in entry:
        return " or ".join(values(part, definitions) for part in entry["anyOf"])
    if "enum" in entry or "const" in entry:
        return ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "null":
        return "`null`"
    if entry.get("type") == "array":
        return f"list of {values(entry['items'], definitions)}"
    if entry.get("type") == "object":
        return "section"
    bounds = {
        "minimum": "from",
        "exclusiveMinimum": "above",
        "maximum": "up to",
        "exclusiveMaximum": "and below",
    }
    given = [f"{text} {entry[key]}" for key, text in bounds.items() if key in entry]
    return " ".join([WORDS[entry["type"]], *given])


def section_lines(section: str, names: list[str], definitions: dict[str, Any]) -> list[str]:
    """Return the tables of a section: one, or one for each architecture of a model."""
    lines = []
    for name in names:
        part = definitions[name]
        architecture = part["properties"].get("name", {}).get("const", "")
        # an adopted preset may have settings that another model does not know
        chosen = [f"model={architecture}", "~experiment"] if section == "model" else []
        defaults = flatten(config_of(*chosen))
        lines.append(f"{part['description']}\n")
        lines += ["| key | values | default | |", "|---|---|---|---|"]
        for key, entry in part["properties"].items():
            default = json.dumps(defaults.get(f"{section}.{key}", entry.get("default")))
            row = [f"`{key}`", values(entry, definitions), f"`{default}`", entry["description"]]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return lines


def reference() -> str:
    """Return the page."""
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    lines = [HEAD]
    for section, entry in schema["properties"].items():
        lines.append(f"## {section}\n")
        if files := sorted(file.stem for file in (CONF / section).glob("*.yaml")):
            lines.append(f"Files: {', '.join(f'`{section}={file}`' for file in files)}\n")
        if section == "external":
            lines.append("One section for each set, with a name of your choice.\n")
            names = ["ExternalSet"]
        else:
            alternatives = entry.get("oneOf", [entry])
            names = [alternative["$ref"].rsplit("/", 1)[1] for alternative in alternatives]
        lines += section_lines(section, names, definitions)
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
