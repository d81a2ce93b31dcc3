"""The command line: `image-classifier COMMAND …`, also as `python -m image_classifier`.

The one place where commands are listed, and where errors become messages and exit codes.
"""

import argparse
import importlib
import logging
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from image_classifier.errors import InputError, explain_os_error
from image_classifier.project import signals

# DVC runs these in this order, with the settings of params.yaml
STAGES = {
    "fetch": "copy the dataset to build/raw",
    "external": "copy the external sets to build/external",
    "split": "assign the images to training, validation and test",
    "prepare": "decode every image once, into one array",
    "train --stage": "train one model; the stage evaluate registers it",
    "evaluate": "measure the model on the test images, and register it",
    "promote": "make the registered version champion, or say why not",
}
COMMANDS = {
    "dataset": "look at your images, and write the settings for them",
    "train": "train one model, or many with --multirun",
    "predict": "classify image files",
    "seen": "tell which trainings have used an image",
    "drift": "test whether new images come from where the training images came from",
    "export": "write a model as ONNX, LiteRT or SavedModel, to run without this package",
    "serve": "classify images over HTTP",
    "summary": "show the results of the pipeline, and what to do next",
    "adopt": "make the settings of a run the defaults",
    "prune": "delete the models of a sweep's jobs that lost",
    "rollback": "restore the previous champion",
    "reproduce": "repeat a run, and compare it with the original to the last bit",
    "config": "print all settings, as Hydra composes them from conf/",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 1 after a message on the error stream."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name not in STAGES | COMMANDS:
        parser = argparse.ArgumentParser(
            prog="image-classifier",
            usage="image-classifier COMMAND [--help] …",
            description=overview(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", choices=[*COMMANDS, *STAGES], help=argparse.SUPPRESS)
        parser.parse_args([name])
    try:
        with signals.raise_ended():
            return run(name, words[1:])
    except signals.Ended as ended:
        close_runs()
        with suppress(OSError):  # the terminal is closed
            print(
                f"{name}: stopped by {ended}. To continue, run the command again.", file=sys.stderr
            )
        return signals.finish()
    except InputError as error:
        message = str(error)
    except (HydraException, OmegaConfBaseException) as error:
        from image_classifier.config.messages import explain_composition

        # of the other commands, the arguments are files and addresses
        message = explain_composition(error, words[1:] if name in ("config", "train") else [])
    except yaml.MarkedYAMLError as error:
        from image_classifier.config.messages import explain_yaml

        message = explain_yaml(error)
    except ImportError as error:
        message = explain_import(error)
    except OSError as error:
        message = explain_os_error(error)
    except MemoryError:
        message = "the memory is full. Close other programs, or add memory."
    print(f"{name}: {message}", file=sys.stderr)
    return 1


def check_folder() -> None:
    """Raise an InputError if the libraries cannot work in a folder of this name."""
    from image_classifier.project.paths import project

    folder = str(project())
    if {"'", '"'} <= set(folder):
        raise InputError("MLflow refuses a folder with both ' and \" in its path: rename it.")
    queued = not project().samefile(Path.cwd())
    if queued and (not folder.isascii() or set("?#%") & set(folder)):
        raise InputError(
            f"{folder}: in a folder with ?, #, % or letters beyond ASCII in its path, DVC loses "
            f"experiments of --queue and --temp. Run them without these options, or rename the "
            f"folder."
        )


def explain_import(error: ImportError) -> str:
    """Return which of the project's modules a queued experiment lacks; raise any other error."""
    from image_classifier.project.paths import left_behind

    missing = left_behind() if (error.name or "").startswith("image_classifier") else []
    if not missing:
        raise error
    return (
        f"{error}. Queued experiments have only the files that git tracks. Run `git add "
        f"{shlex.join(missing)}`, then queue the experiment again."
    )


def close_runs() -> None:
    """Close the MLflow runs that this process has opened, as killed."""
    if runs := sys.modules.get("image_classifier.tracking.runs"):
        with suppress(Exception, signals.Ended):  # MLflow fails, or does not answer in time
            runs.close_own()


def overview() -> str:
    """Return the list of commands for `--help`."""
    lines = ["Train, compare, approve and serve image classifiers.", ""]
    for title, commands in (("commands", COMMANDS), ("stages of `dvc repro`", STAGES)):
        lines += [f"{title}:", *(f"  {name:13} {text}" for name, text in commands.items()), ""]
    return "\n".join(lines)


def run(name: str, words: list[str]) -> int:
    """Import the module of one command, and run it with its arguments; return the exit code."""
    from image_classifier.config.compose import load  # not above: it may lack one of its modules

    check_folder()
    if name in STAGES:
        module = importlib.import_module(f"image_classifier.stages.{name}")
        parser_of(name, module).parse_args(words)
        getattr(module, name)(load())
        return 0
    module = importlib.import_module(f"image_classifier.commands.{name}")
    if name == "train":  # Hydra reads the arguments of a training itself
        return int(module.run(words))
    parser = parser_of(name, module)
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(words)))


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return a parser whose help is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"image-classifier {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    sys.exit(main())
