"""Lines of an export: what each holds as the server has it, and what is no line of one."""

from __future__ import annotations

from base64 import b64encode

import pytest

from redis_store.admin.lines import compressed, parse_line, row_of
from redis_store.errors import InvalidInput

LINE = b'{"user":"alice","namespace":"files","key":"k","value":[1, 2]}\n'


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b'"key"', b'"key_base64":"aw==","key"', "must name its key once"),
        (b'"namespace":"files",', b"", "must name its namespace once"),
        (b'"namespace"', b'"namespace_base64":"aw==","namespace"', "must name its namespace once"),
        (b'"namespace"', b'"namespace_base64"', "namespace is not base64"),
        (b'"key":"k"', b'"key_base64":"k"', "key is not base64"),
        (b',"value":[1, 2]', b"", "one of value, text and base64"),
        (b'"value"', b'"text":"1","value"', "one of value, text and base64"),
        (b'"value"', b'"base64":"MQ==","value"', "one of value, text and base64"),
        (b'"value":[1, 2]', b'"base64":"x"', "value is not base64"),
        (b"}\n", b',"tags":["tag:t"]}\n', "has tags, but no info"),
        (b"}\n", b',"info":{"created":1},"tags":["lock:l"]}\n', "'lock:l' is not a tag"),
        (b"}\n", b',"info":{"created":1,"tags":{"user:bob:tag:t":1}}}\n', "not one that this package writes"),
        (b"}\n", b',"info":{"at":1}}\n', "not one that this package writes"),
        (b"}\n", b',"expires":0}\n', "0 is not a time"),
    ],
)
def test_what_is_no_line_is_refused(old: bytes, new: bytes, why: str) -> None:
    assert old in LINE
    with pytest.raises(InvalidInput, match=why):
        parse_line(LINE.replace(old, new))


def test_a_row_has_the_bytes_of_its_line() -> None:
    row = row_of(parse_line(LINE))
    assert (row.user, row.namespace, row.field, row.text, row.info) == ("alice", b"files", b"k", b"[1, 2]", b"")
    about = b'{"created":1,"updated":2,"by":"a \\u0022b","updated_by":null,"run":"r","metadata":{"tags":{"x":1}}}'
    row = row_of(parse_line(LINE.replace(b"}\n", b',"info":%b,"tags":["tag:t"],"expires":9}\n' % about)))
    assert (row.info, row.tags, row.expires_ms) == (about, ["tag:t"], 9)


def test_a_row_of_other_forms() -> None:
    line = b'{"user":"alice","namespace_base64":"%b","key_base64":"%b","base64":"%b"}\n'
    row = row_of(parse_line(line % (b64encode(b"\xfe"), b64encode(b"\xfd\n"), b64encode(b"\xff\x00"))))
    assert (row.namespace, row.field, row.text) == (b"\xfe", b"\xfd\n", b"\xff\x00")
    assert row_of(parse_line(LINE.replace(b'"value":[1, 2]', b'"text":" 1\\n"'))).text == b" 1\n"
    text = b'"%b"' % (b"x" * 1000)
    packed = row_of(parse_line(LINE.replace(b"[1, 2]}", b'%b,"compressed":true}' % text))).text
    assert packed == compressed(text)
    assert len(packed) < 100
