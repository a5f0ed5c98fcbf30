"""Version directories that appear whole or not at all.

TF Serving polls `<base>/` and loads whatever directory there has a number for a name. So an export
is written to a working directory beside the versions, whose name is no number, and becomes a
version by one rename at the end.

A process that is killed leaves its working directory behind. The next export removes it, and knows
it from one still in use by the lock that its owner holds: the kernel frees that when the owner
ends, however it ends. A process id would not do: on a shared disk it may be another host's.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from distilbert_serving.version_numbers import taken_numbers

WORK_PREFIX = ".exporting-"
_LOCK = "lock"
_NAME_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
_MAX_VERSION = 2**63 - 1  # TF Serving reads versions as int64


def check_version(base_path: Path, version: int | None) -> None:
    """Checks a version number that a caller asks for, before any work is done.

    Args:
        base_path: Where the versions are.
        version: The number, or None for the next one.

    Raises:
        ValueError: Not a number that TF Serving reads.
        FileExistsError: There is such a version.
    """
    if version is None:
        return
    if isinstance(version, bool) or not 1 <= version <= _MAX_VERSION:
        raise ValueError(f"A version is an integer from 1 to 2**63 - 1; got {version!r}.")
    if version in taken_numbers(base_path):
        raise FileExistsError(_taken(base_path, version))


@contextlib.contextmanager
def working_directory(base_path: Path) -> Iterator[Path]:
    """Makes a directory to work in beside the versions, and removes it in the end.

    Working directories of processes that are no more are removed first.

    Args:
        base_path: Where the versions are; made if missing.

    Yields:
        The directory. It is on the versions' file system, so a rename can publish what it holds.

    Raises:
        OSError: The base path cannot be made or written to.
    """
    base_path.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(base_path)
    directory, lock = _make_locked_directory(base_path)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def explained_errors(directory: Path) -> Iterator[None]:
    """Says of an error while files are written where that was: Python's own names no file.

    Args:
        directory: What is written into.

    Raises:
        OSError: The error, explained.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"The export could not be written to {directory.parent}; is the disk full? {error}",
        ) from error


def publish(directory: Path, base_path: Path, version: int | None) -> Path:
    """Turns a finished directory into a version.

    Its contents are on the disk before its name is: a version is whole even after a power cut.

    Args:
        directory: What to publish; it is renamed.
        base_path: Where the versions are, on the same file system.
        version: The number; None for one more than the highest that is there.

    Returns:
        `<base_path>/<version>`.

    Raises:
        FileExistsError: That version has appeared in the meantime.
        OSError: The disk is full or failing.
    """
    _sync_tree(directory)
    while True:
        number = max(taken_numbers(base_path), default=0) + 1 if version is None else version
        if version is not None and version in taken_numbers(base_path):
            raise FileExistsError(_taken(base_path, version))
        target = base_path / str(number)
        try:
            # Fails if another export got the name first, since a version is never empty.
            directory.rename(target)
        except OSError as error:
            if error.errno not in _NAME_TAKEN:
                raise
            if version is not None:
                raise FileExistsError(_taken(base_path, version)) from error
            continue  # and the next number is one higher
        _sync(base_path)
        return target


def _taken(base_path: Path, version: int) -> str:
    highest = max(taken_numbers(base_path), default=version)
    return (
        f"{base_path} has a version {version} already. Versions are never overwritten, since a "
        f"server may hold them: leave out the number for the next one ({highest + 1})."
    )


def _make_locked_directory(base_path: Path) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=base_path))
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue  # taken for an abandoned one before it was locked
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks; there nobody can tell that a directory is
            # abandoned either, and it stays.
            logging.warning("No file locks in %s: %s.", base_path, error)
            return directory, lock
        if _is_at(lock, directory / _LOCK):
            return directory, lock
        os.close(lock)  # removed while this process waited for the lock


def _remove_abandoned(base_path: Path) -> None:
    for directory in base_path.glob(WORK_PREFIX + "*"):
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT)
        except OSError:
            continue  # gone, or somebody else's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, directory / _LOCK):
                shutil.rmtree(directory, ignore_errors=True)
                logging.info("Removed %s, which a process that ended early left.", directory)
        except OSError:
            pass  # its owner is alive, or there are no locks here
        finally:
            os.close(lock)


def _is_at(descriptor: int, path: Path) -> bool:
    """Says whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync_tree(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
