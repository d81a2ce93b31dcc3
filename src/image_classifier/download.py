"""Copies a folder out of a git or DVC repository: `python -m image_classifier.download …`.

A process of its own, so that fetch can end it when it takes too long: a git host that hangs has
no time-out in DVC. Prints the commit.
"""

import argparse


def download(url: str, revision: str | None, subfolder: str | None, folder: str) -> str:
    """Copy `subfolder` of a repository at a revision to the new folder; return the commit."""
    from dvc.api import DVCFileSystem
    from dvc.fs.callbacks import TqdmCallback

    filesystem = DVCFileSystem(url, rev=revision)
    with TqdmCallback(desc=f"Fetching {url}", unit="file") as callback:
        filesystem.get(subfolder or "/", folder, recursive=True, callback=callback)
    return str(filesystem.repo.get_rev())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="download", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder")
    parser.add_argument("--revision")
    parser.add_argument("--subfolder")
    arguments = parser.parse_args()
    print(download(arguments.url, arguments.revision, arguments.subfolder, arguments.folder))
