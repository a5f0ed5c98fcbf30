"""Prepares a corpus once, one way, and says how long it took; its parent watches the memory.

The only argument is JSON: `files`, `directory`, `model`, `max_length`, and `num_processes` or
`options`, those of Beam.
"""

import json
import sys
import time
from typing import Any

from benchmarks.workers.protocol import Channel, peak_memory_mib, versions
from distilbert_tf import CorpusSettings, DistilBertTokenizer, prepare_corpus


def run(
    files: list[str],
    directory: str,
    model: str,
    max_length: int,
    num_processes: int = 1,
    options: list[str] | None = None,
) -> dict[str, Any]:
    """Prepares a corpus.

    Returns:
        `seconds` without imports, and `start_mib`, the memory that these took.
    """
    settings = CorpusSettings(max_length)
    tokenizer = DistilBertTokenizer.from_pretrained(model)
    if options is not None:
        from distilbert_tf.data.corpus_beam import prepare_corpus_with_beam
    start_mib, start_s = peak_memory_mib(), time.perf_counter()
    if options is None:
        prepare_corpus(files, directory, tokenizer, settings, num_processes=num_processes)
    else:
        prepare_corpus_with_beam(files, directory, tokenizer, settings, options=options)
    seconds = time.perf_counter() - start_s
    return {"seconds": seconds, "start_mib": start_mib, "versions": versions()}


if __name__ == "__main__":  # the processes of a pool import this module
    Channel().write(run(**json.loads(sys.argv[1])))
