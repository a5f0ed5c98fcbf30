"""What a model's base path and its versions' directories hold."""

import os
import pathlib

from distilbert_serving.server.model_config import ModelSettings

Fingerprint = frozenset[tuple[str, int, int]]


def explain_nothing(settings: ModelSettings) -> str:
    """Says what there is where no version was found."""
    there = sorted(path.name for path in settings.base_path.iterdir())
    hint = (
        "This is a version's own directory: give its parent, and give it a number for a name."
        if "saved_model.pb" in there
        else "A version is a sub-directory with a number for a name, such as 1."
    )
    if settings.policy.specific:
        hint = f"The wanted versions are {', '.join(map(str, settings.policy.specific))}."
    listing = ", ".join(there[:10] + ["..."] * (len(there) > 10)) or "nothing"
    return (
        f"No version of model {settings.name} in {settings.base_path}, where there is: {listing}. "
        f"{hint}"
    )


def fingerprint_of(path: pathlib.Path) -> Fingerprint:
    """Gives names, sizes and times of the files of a version; others when it was written to."""
    files = set()
    for parent, _, names in os.walk(path):
        for name in names:
            file = os.path.join(parent, name)
            try:
                stat = os.stat(file)
            except OSError:
                continue  # gone meanwhile: the next look will see that
            files.add((file, stat.st_size, stat.st_mtime_ns))
    return frozenset(files)
