"""`distilbert-tf query`: every format and method, long input, and runs that end early."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import fake_serving
import grpc
import pytest
from processes import deadline, finish
from waiting import wait_until

from distilbert_tf import cli
from distilbert_tf.commands.answer_output import METHODS

LONG = fake_serving.LONG.encode()
COMMAND = [sys.executable, "-m", "distilbert_tf.cli", "query"]


@pytest.fixture
def servicer():
    return fake_serving.FakeServing()


@pytest.fixture
def port(servicer):
    server, port = fake_serving.start(servicer)
    yield port
    server.stop(0)


@pytest.fixture
def query(port, capsys):
    def run(*argv, code=0):
        words = ["query", f"--port={port}", *argv]
        if code == 0:
            cli.main(words)
        else:
            with pytest.raises(SystemExit) as ended:
                cli.main(words)
            assert ended.value.code == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("method", "text", "line", "fields"),
    [
        (
            "predict",
            "a kettle",
            "länger\t0.9933\ta kettle\n",
            {
                "label": "länger",
                "label_id": 1,
                "score": 0.993307,
                "probabilities": [0.006693, 0.993307],
            },
        ),
        (
            "classify",
            "tea",
            "kurz\t2.5000\ttea\n",
            {
                "label": "kurz",
                "score": 2.5,
                "classes": ["kurz", "länger"],
                "scores": [2.5, -2.5],
            },
        ),
        ("regress", "tea", "3\ttea\n", {"value": 3.0}),
        ("encode", "tea", "6 1 -2\ttea\n", {"cls": [3.0, 0.5, -1.0], "mean": [6.0, 1.0, -2.0]}),
        (
            "tokenize",
            "naïve tea",
            "[CLS] naïve tea\tnaïve tea\n",
            {
                "input_ids": [5, 6, 3],
                "attention_mask": [1, 1, 1],
                "tokens": ["[CLS]", "naïve", "tea"],
            },
        ),
        (
            "fill_mask",
            "so [MASK]",
            "bé 0.5000 to 0.2500\tso [MASK]\n",
            {
                "masks": [
                    [
                        {"token": "bé", "token_id": 0, "score": 0.5},
                        {"token": "to", "token_id": 9, "score": 0.25},
                    ]
                ]
            },
        ),
    ],
)  # fmt: skip
def test_methods_and_formats(query, method, text, line, fields):
    assert query(f"--method={method}", text).out == line
    row = json.loads(query(f"--method={method}", "--format=jsonl", text).out)
    assert row == {"text": text, **fields}
    shown = query(f"--method={method}", "--format=csv", text, text).out
    header, first, second = csv.reader(io.StringIO(shown))
    assert header == ["text", *fields]
    assert first == second
    for cell, value in zip(first[1:], fields.values(), strict=True):
        assert cell == value if isinstance(value, str) else json.loads(cell) == value


def test_a_long_file_keeps_its_order(query, servicer, tmp_path):
    texts = [f"{'x' * (n % 40)}é{n}" for n in range(2000)]
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    servicer.script = [0.002 * (n % 7) for n in range(40)]
    shown = query(
        f"--input={tmp_path / 'in.txt'}",
        f"--output={tmp_path / 'out.jsonl'}",
        "--json",
        "--concurrency=5",
        "--progress",
    )
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert [row["text"] for row in rows] == texts
    ids = [int(fake_serving.logits_of(text).argmax()) for text in texts]
    assert [row["label_id"] for row in rows] == ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.jsonl"]
    assert shown.out == ""
    assert "100%|" in shown.err
    assert " 2000/2000 [" in shown.err
    assert servicer.most_active > 1


def test_pairs_and_tasks(query, servicer):
    shown = query("--pair", "--signature=mnli", "--format=jsonl", "a\tbb", "\t").out
    rows = list(map(json.loads, shown.splitlines()))
    assert [(row["text"], row["text_pair"], row["label_id"]) for row in rows] == [
        ("a", "bb", 1),
        ("", "", 0),
    ]
    # The signature says that it takes pairs.
    assert query("--signature=mnli", "--method=tokenize", "a\tb").out == ("[CLS] a b\ta\tb\n")
    query("--label=stable", "--header=x-key: v", "a")
    assert servicer.requests[-1].model_spec.version_label == "stable"
    assert servicer.headers[-1]["x-key"] == "v"
    query("--version=7", "a")
    assert servicer.requests[-1].model_spec.version.value == 7


@pytest.mark.parametrize(
    ("content", "flags", "message", "answers"),
    [
        (b"a\tb\nc\td\nalone\ne\tf\n", ["--pair", "--signature=mnli"],
         "line 3: two texts separated by a tab are expected; got 'alone'", 2),
        (b"fine\nbad \xff\n", [], "line 2 is not UTF-8: invalid start byte at byte 4", 1),
        (b"\xff\n", [], "line 1 is not UTF-8", 0),
        (b"fine\nfine\n%b\nfine\n" % LONG, ["--batch_size=2"],
         "line 3 cannot be computed: a text may have no more bytes than the export", 2),
        (b"\tb\na\t%b\n\xff" % LONG, ["--pair", "--signature=mnli", "--method=regress"],
         "line 2 cannot be computed: a text may", 1),
    ],
)  # fmt: skip
def test_bad_lines_are_named_after_the_answers_before_them(
    query, tmp_path, content, flags, message, answers
):
    (tmp_path / "in.txt").write_bytes(content)
    shown = query(f"--input={tmp_path / 'in.txt'}", *flags, code=2)
    assert f"{tmp_path / 'in.txt'}, {message}" in shown.err
    assert len(shown.out.splitlines()) == answers
    assert (f"{answers} answers are in standard output" in shown.err) == (answers > 0)


@pytest.mark.parametrize("method", METHODS)
def test_bad_texts_are_left_out_if_wanted(query, tmp_path, method):
    (tmp_path / "in.txt").write_bytes(b"tea\n%b\nis \xff\n[MASK] ok" % LONG)
    out = tmp_path / "out.jsonl"
    shown = query(
        f"--input={tmp_path / 'in.txt'}", f"--output={out}", "--json", f"--method={method}",
        "--bad_rows=skip", "--progress",
    )  # fmt: skip
    assert [json.loads(row)["text"] for row in out.read_text().splitlines()] == ["tea", "[MASK] ok"]
    assert "query: left out 2 of 4 texts, among them: " in shown.err
    assert "in.txt, line 3 is not UTF-8" in shown.err
    assert " 3/3 [" in shown.err
    shown = query("--bad_rows=skip", f"--method={method}", LONG.decode())
    assert shown.out == ""
    assert "left out 1 of 1 texts, among them: argument 1 cannot be computed: a text" in shown.err


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_tables_of_texts_with_line_ends(query, tmp_path, ending):
    texts = ["two\nlines, and a comma", 'a "quote"', "plain"]
    rows = {
        "csv": 'id,text\n1,"two\nlines, and a comma"\n2,"a ""quote"""\n3,plain\n',
        "jsonl": "".join(
            json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)
        ),
    }
    path = tmp_path / f"in.{ending}"
    path.write_text(rows[ending])
    shown = query(f"--input={path}", "--json", "--method=regress").out
    assert [json.loads(line) for line in shown.splitlines()] == [
        {"text": text, "value": float(len(text))} for text in texts
    ]
    assert query(f"--input={path}", "--method=regress").out.splitlines()[0] == (
        "22\ttwo\\nlines, and a comma"
    )
    shown = query(f"--input={path}", "--format=csv", "--method=regress").out
    assert [row["text"] for row in csv.DictReader(io.StringIO(shown))] == texts
    shown = query(f"--input={path}", "--text_columns=body", code=2)
    assert f"{path} has the columns id, text, but no body: name one, of texts" in shown.err


def test_cells_that_are_no_texts_are_named(query, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "tea"}\n{"text": null}\n{"text": 3}\n')
    shown = query(f"--input={path}", "--method=regress", code=2)
    assert f"{path}, line 2: the column 'text' is empty, not a text" in shown.err
    assert shown.out == "3\ttea\n"
    shown = query(f"--input={path}", "--method=regress", "--bad_rows=skip")
    assert "left out 2 of 3 texts" in shown.err


def test_mistakes(query, tmp_path):
    assert "given twice" in query("a", "--input=x", code=2).err
    assert "No such file" in query(f"--input={tmp_path / 'none'}", code=1).err
    assert "is no file" in query(f"--output={tmp_path}", "a", code=2).err
    assert "--header wants 'name: value'" in query("--header=x", "a", code=2).err
    assert "needs both" in query("--client_key=x", "a", code=1).err
    assert "takes single texts: leave out --pair" in query("--pair", "a\tb", code=2).err


@pytest.mark.parametrize("method", ["predict", "classify", "regress", "tokenize"])
def test_a_model_of_pairs_wants_pairs(query, tmp_path, method):
    to_pairs = ["--signature=mnli", f"--method={method}"]
    shown = query(*to_pairs, "just one text", code=2)
    assert (
        "argument 1: two texts separated by a tab are expected; got 'just one text'; in a shell, "
        r"a pair is written $'first\tsecond'"
    ) in shown.err
    path = tmp_path / "new.csv"
    path.write_text("Subject,Body\nInvoice,charged twice\nLogin,no mail came\n")
    shown = query(*to_pairs, f"--input={path}", code=2)
    assert shown.err.endswith(
        f"{path} has the columns Subject, Body: name two, of pairs, with "
        "--text_columns=FIRST,SECOND\n"
    )
    shown = query(*to_pairs, f"--input={path}", "--text_columns=Subject,Body", "--json").out
    assert [(row["text"], row["text_pair"]) for row in map(json.loads, shown.splitlines())] == [
        ("Invoice", "charged twice"),
        ("Login", "no mail came"),
    ]


def test_columns_of_a_table_are_asked_for(query, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("Subject,Body\nInvoice,charged twice\n")
    assert query(f"--input={path}", code=2).err.endswith(
        f"{path} has the columns Subject, Body: name one, of texts, with --text_columns=NAME, or "
        "two, of pairs, with --text_columns=FIRST,SECOND\n"
    )
    # Two columns are those of pairs, which this model does not take.
    shown = query(f"--input={path}", "--text_columns=Subject,Body", code=2)
    assert "takes single texts: leave out --pair, and name one column at most" in shown.err
    assert query("--help").out.count("fine-tuned") == 1, "of pairs, not of columns"


def test_a_server_that_fails_loses_nothing_that_is_written(query, servicer, tmp_path):
    (tmp_path / "in.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    out = tmp_path / "out.txt"
    servicer.script = [0.0, 0.0, grpc.StatusCode.INTERNAL]
    out.write_text("of yesterday")
    flags = [f"--input={tmp_path / 'in.txt'}", f"--output={out}", "--batch_size=2", "--progress"]
    shown = query(*flags, "--method=regress", code=1)
    (partial,) = tmp_path.glob("out.txt.*.partial")
    assert partial.read_text() == "3\tone\n3\ttwo\n5\tthree\n4\tfour\n"
    assert f"stopped before {tmp_path / 'in.txt'}, line 5; 4 answers are in {partial}" in shown.err
    assert "gave INTERNAL: as the script says" in shown.err
    assert " 4/5 [" in shown.err, "19 of 24 bytes are done"
    assert out.read_text() == "of yesterday"
    partial.unlink()
    servicer.script = [grpc.StatusCode.INTERNAL]
    query(*flags, "--method=regress", code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt"]


def _start(port, *flags, **pipes):
    return subprocess.Popen(
        [*COMMAND, f"--port={port}", "--method=regress", *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **pipes,
    )


def test_control_c(port, tmp_path):
    out = tmp_path / "out.txt"
    process = _start(port, f"--output={out}", "--batch_size=2", "--progress")
    process.stdin.write("a\nbb\n" * 2 + "ccc\n" * 4 + "an unfinished batch\n")
    process.stdin.flush()
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.iterdir()))
    found = list(tmp_path.iterdir())
    process.send_signal(signal.SIGINT)
    _, shown = finish(process, 130)
    lines = found[0].read_text().splitlines()
    assert lines == ["1\ta", "2\tbb", "1\ta", "2\tbb", *["3\tccc"] * 4][: len(lines)]
    place = f"standard input, line {len(lines) + 1}"
    assert f"stopped before {place}; {len(lines)} answers are in {found[0]}" in shown
    assert f"{len(lines)} texts [" in shown
    assert "query: interrupted" in shown
    assert "Traceback" not in shown


def test_a_reader_that_goes_away(port):
    process = _start(port, stdout=subprocess.PIPE)
    with deadline(process):
        process.stdin.write("tea\n" * 5000)
        process.stdin.close()
        assert process.stdout.readline() == "3\ttea\n"
        process.stdout.close()
        shown = process.stderr.read()
        assert process.wait() == 1
    assert "stopped before standard input, line " in shown
    assert "BrokenPipe" not in shown


def test_memory_stays_the_same(port):
    script = (
        "import re, sys; from distilbert_tf import cli\n"
        f"cli.main(['query', '--port={port}', '--batch_size=100', '--method=regress'])\n"
        "assert 'tensorflow' not in sys.modules\n"
        "status = open('/proc/self/status').read()\n"
        "sys.stderr.write(re.search(r'VmHWM:\\s+(\\d+)', status)[1])"
    )
    peaks = []
    for count in (200, 20_000):
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        with deadline(process):
            shown, peak = process.communicate(f"{'x' * 1000}\n" * count)
        assert shown == f"1000\t{'x' * 1000}\n" * count
        peaks.append(int(peak))
    assert peaks[1] - peaks[0] < 4_000, "KiB, for 20 MB of input"
