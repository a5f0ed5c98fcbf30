"""The versions of a model below a base path: sub-directories with numbers for names."""

import os
from collections.abc import Iterator
from pathlib import Path


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, Path]:
    """Finds the versions that a server sees.

    Whatever has another name is not a version, so an export that is being written or was
    interrupted is never served.

    Args:
        base_path: Where the versions are.

    Returns:
        Their directories by number.

    Raises:
        FileNotFoundError, NotADirectoryError: The base path is not a directory.
    """
    return {number: path for number, path in _list_numbers(base_path) if path.is_dir()}


def taken_numbers(base_path: str | os.PathLike[str]) -> set[int]:
    """Lists the numbers that no new version can have, since something has that name: also a file.

    Args:
        base_path: Where the versions are, or will be.
    """
    try:
        return {number for number, _ in _list_numbers(base_path)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _list_numbers(base_path: str | os.PathLike[str]) -> Iterator[tuple[int, Path]]:
    for path in Path(base_path).iterdir():
        if path.name.isascii() and path.name.isdigit():
            yield int(path.name), path
