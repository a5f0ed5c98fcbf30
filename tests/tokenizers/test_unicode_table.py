"""The stored Unicode table: still what the library does, and readable."""

import make_unicode_table
import numpy as np
import pytest

from distilbert_tf.tokenizers.unicode_table import (
    KIND_SHIFT,
    OFFSET_BIAS,
    OPTION_PAIRS,
    VALUE_MASK,
    Kind,
    load_unicode_table,
)


def entry(char, lowercase=True, strip_accents=True):
    """The kind of a code point's entry, and its output if that is one code point."""
    table = load_unicode_table(lowercase, strip_accents)
    packed = int(table.entries_of(np.array([ord(char)], np.int32))[0])
    kind = Kind(packed >> KIND_SHIFT)
    value = packed & VALUE_MASK
    if kind is Kind.EXPANDS:
        return kind, "".join(chr(c) for c in table.expansions[value] if c >= 0)
    return kind, chr(ord(char) + value - OFFSET_BIAS)


def test_installed_library_equals_stored_table(monkeypatch, tmp_path, capsys):
    probed = make_unicode_table.probe_unicode_table()
    monkeypatch.setattr(make_unicode_table, "probe_unicode_table", lambda: probed)
    status, said = make_unicode_table.main(["--check"]), capsys.readouterr().out
    assert status == 0, f"{said} Run `python tests/make_unicode_table.py` and the parity tests."
    probed["entries"][5, 7] += 1
    assert make_unicode_table.main(["--check"]) == 1
    assert "differing arrays: entries" in capsys.readouterr().out
    assert make_unicode_table.main(["--output", str(tmp_path / "table.npz")]) == 0
    with np.load(tmp_path / "table.npz") as written:
        assert set(written) == set(probed)
        for name in written:
            np.testing.assert_array_equal(written[name], probed[name])
    assert (tmp_path / "table.npz").stat().st_size < 100_000


def test_a_clean_up_that_loses_the_separator_is_noticed():
    with pytest.raises(ValueError, match=r"not kept near U\+0000"):
        make_unicode_table.probe_each(lambda text: text.replace("q", ""))


def test_an_output_that_the_table_cannot_hold_is_noticed():
    outputs = [chr(c) for c in range(make_unicode_table.NUM_CODE_POINTS)]
    outputs[0x41] = "abcd"
    kinds = np.zeros(make_unicode_table.NUM_CODE_POINTS, np.int32)
    with pytest.raises(ValueError, match=r"U\+0041 becomes 'abcd'"):
        make_unicode_table.make_entries(outputs, kinds, {})


@pytest.mark.parametrize(
    ("char", "options", "expected"),
    [
        ("A", (True, True), (Kind.LETTER, "a")),
        ("A", (False, True), (Kind.LETTER, "A")),
        ("\u00c9", (True, True), (Kind.LETTER, "e")),
        ("\u00c9", (False, True), (Kind.LETTER, "E")),
        ("\u00c9", (True, False), (Kind.LETTER, "\u00e9")),
        ("\u0130", (True, True), (Kind.LETTER, "i")),
        ("\u0130", (True, False), (Kind.EXPANDS, "i\u0307")),
        ("\u03a3", (True, True), (Kind.LETTER, "\u03c3")),
        ("\uac01", (True, True), (Kind.EXPANDS, "\u1100\u1161\u11a8")),
        ("\uac01", (False, False), (Kind.LETTER, "\uac01")),
        ("\uf900", (True, True), (Kind.CHINESE, "\u8c48")),
        ("\u0301", (True, True), (Kind.DELETED, "\u0301")),
        ("\u0901", (True, True), (Kind.DELETED_STARTER, "\u0901")),
        ("\u0301", (True, False), (Kind.LETTER, "\u0301")),
        ("\x00", (False, False), (Kind.DELETED, "\x00")),
        ("\ufffd", (False, False), (Kind.DELETED, "\ufffd")),
        ("\t", (True, True), (Kind.SPACE, " ")),
        ("[", (True, True), (Kind.ISOLATED, "[")),
    ],
)
def test_entries_by_hand(char, options, expected):
    assert entry(char, *options) == expected


def test_marks_are_ranked_by_combining_class():
    table = load_unicode_table(lowercase=True, strip_accents=True)
    assert (np.diff(table.marks) > 0).all()
    ranks = dict(zip(table.marks.tolist(), table.mark_ranks.tolist(), strict=True))
    # Classes 7, 9, 216, 224, 226 and 230.
    ordered = [ranks[c] for c in (0x11446, 0x1B44, 0x1D165, 0x302E, 0x1D16D, 0x08D4)]
    assert ordered == sorted(set(ordered))
    assert ranks[0x1B44] == ranks[0xA953]


def test_all_option_pairs_have_a_table():
    pages = [load_unicode_table(*pair).pages for pair in OPTION_PAIRS]
    assert len({page.tobytes() for page in pages}) == len(OPTION_PAIRS)
