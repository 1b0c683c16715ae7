# SPDX-License-Identifier: Apache-2.0
"""JSON, JSON lines, YAML and CSV are bounded; errors name file and line."""

import pytest

from ldm_jax.files.errors import UnreadableFile
from ldm_jax.files.formats.structured import (
    read_csv,
    read_json,
    read_json_lines,
    read_yaml,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "line 1"),
        ("[" * 100_000, "RecursionError"),
        ("[" * 100 + "]" * 100, "nested"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested"),
        ("[1]", "not an object of JSON: got"),
        ('{"a": ' + "1" * 5000 + "}", "readable JSON"),
        (r'{"a": "\ud800"}', "surrogates"),
        ("", "empty"),
        ("<html>", "HTML"),
    ],
)
def test_json_that_is_none_or_has_no_bounds_is_refused(tmp_path, text, words):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=rf"config\.json.*{words}"):
        read_json(path)


def test_json_is_read_with_a_byte_order_mark_and_whole_surrogate_pairs(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": [1, "\\ud83d\\ude00"]}')
    assert read_json(tmp_path / "a") == {"a": [1, "😀"]}


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_json, '{"a": 1, "a": 2}'),
        (read_json, '{"b": [{"a": 1, "a": 1}]}'),
        (lambda path: list(read_json_lines(path)), '{"a": 1}\n{"a": 1, "a": 2}\n'),
        (lambda path: list(read_csv(path)), "a,b,a\n1,2,3\n"),
        (read_yaml, "a: 1\nb: 2\na: 3\n"),
        (read_yaml, "x: {y: [{a: 1, a: 2}]}\n"),
    ],
)
def test_a_name_given_twice_is_refused_as_readers_differ_in_which_they_take(
    tmp_path, read, text
):
    (tmp_path / "x").write_text(text)
    with pytest.raises(UnreadableFile, match=r"x.* it has 'a' twice; keep one"):
        read(tmp_path / "x")


@pytest.mark.parametrize("line", ["[1]", "{", "3", '{"a": "\\ud800"}'])
def test_a_line_of_json_that_holds_no_object_is_refused_with_its_number(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x\u2028y"}\n\n{"a": 2}\n')
    assert list(read_json_lines(path)) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n\n' + line)
    with pytest.raises(UnreadableFile, match=r"a\.jsonl, line 3"):
        list(read_json_lines(path))


def test_csv_as_spreadsheets_save_it_is_read(tmp_path):
    """Identity: byte order mark, CRLF, quoted line breaks; lines are counted in all."""
    text = '\ufefffile,text\r\na.jpg,"x, ""y""\nz"\r\nb.jpg,\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert list(read_csv(tmp_path / "a.csv")) == [
        (3, {"file": "a.jpg", "text": 'x, "y"\nz'}),
        (4, {"file": "b.jpg", "text": ""}),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [("1,2,3", "more values than columns"), ("x" * 200_000, "field larger")],
)
def test_a_row_of_csv_that_cannot_be_read_is_refused_with_its_line(
    tmp_path, row, words
):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n5\n")
    assert list(read_csv(path)) == [
        (2, {"a": "1", "b": "2"}),
        (3, {"a": "5", "b": ""}),
    ]
    path.write_text(f"a,b\n1,2\n5\n{row}\n")
    with pytest.raises(UnreadableFile, match=rf"a\.csv.*line 4.*{words}"):
        list(read_csv(path))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"a,b\n\xe9,2\n", "UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_is_no_csv_is_refused(tmp_path, data, words):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UnreadableFile, match=rf"a\.csv.*{words}"):
        list(read_csv(tmp_path / "a.csv"))


def _aliases(line, times=40):
    return "a0: &a0 {}\n" + "".join(
        f"a{i + 1}: &a{i + 1} {line.format(i)}\n" for i in range(times)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_aliases("[*a{0}, *a{0}]"), "values"),
        (_aliases("{{x: *a{0}, y: *a{0}}}"), "values"),
        (_aliases("{{<<: [*a{0}, *a{0}]}}"), "values"),
        (_aliases("[*a{0}]", 100), "nested"),
        (_aliases("[*a{0}]", 3000), "RecursionError|nested|values"),
        ("a: &a [*a]", "holds itself"),
        ("a: " + "[" * 5000, "nested"),
        ("".join(" " * i + "a:\n" for i in range(200)), "nested"),
        ("- 1\n" * 150_000, "values"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine"),
        ("a: [", "YAML"),
        ("[1, 2]", "a mapping: got"),
        ("", "a mapping: got None"),
        ("a: " + "1" * 5000, "digits"),
        ("{[a]: b}", "unhashable"),
    ],
)
def test_yaml_that_is_none_or_has_no_bounds_is_refused(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UnreadableFile, match=rf"a\.yaml.*({words})"):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_with_a_few_aliases_is_read(tmp_path):
    text = "a: &a {x: 1}\nb: {<<: *a, y: [*a, *a]}\n"
    (tmp_path / "a.yaml").write_text(text)
    x = {"x": 1}
    assert read_yaml(tmp_path / "a.yaml") == {"a": x, "b": {"x": 1, "y": [x, x]}}
