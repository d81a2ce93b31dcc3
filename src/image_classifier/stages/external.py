"""external: copies the external sets to build/external. They are measured on, never trained on.

Reads the folders and repositories of the setting `external`. Writes build/external/NAME for each
of them, build/external/NAME.csv with the classes, and build/external/external.json.
"""

from image_classifier.config.compose import selected
from image_classifier.config.schema import Config
from image_classifier.data import sources
from image_classifier.data.labels import (
    count_labels,
    count_unused,
    summarize_unused,
    write_labels,
)
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.files import whole_folder
from image_classifier.project.records import read_record, write_record

PARAMS = ["external"]


def external(config: Config) -> None:
    """Copy every external set.

    Raises:
        InputError: a set cannot be read, or has a class that the dataset lacks.
        OSError: a file cannot be read or written. The former sets are unchanged then.
    """
    fetched = read_record(paths.FETCHED, "fetch", counts=dict[str, dict[str, int]])["counts"]
    classes = {label for labels in fetched.values() for label in labels}
    sets = {}
    with whole_folder(paths.EXTERNAL) as folder:
        for name, source in config.external.items():
            labels, commit = sources.copy(f"external.{name}", source, folder / name)
            if unknown := {image.label for image in labels.images} - classes:
                raise InputError(
                    f"external.{name} has the class {', '.join(sorted(unknown))}. The dataset's "
                    f"classes are {', '.join(sorted(classes))}. Say which of them each label "
                    f"means, and list all labels that you keep: "
                    f"external.{name}.classes={{{min(unknown)}: {min(classes)}, ...}}."
                )
            write_labels(labels.images, folder / f"{name}.csv")
            sets[name] = {
                "source": source.url or source.path,
                "commit": commit,
                "counts": count_labels(labels.images),
                "unused": count_unused(labels.unused),
            }
            print(f"{name}: {len(labels.images)} images from {sets[name]['source']}")
            for line in [*labels.notes, *summarize_unused(labels.unused)]:
                print(line)
        record = folder / paths.EXTERNAL_RECORD.name
        write_record(record, selected(config, PARAMS), sets=sets)
    if not sets:
        print("No external sets.")
