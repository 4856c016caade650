"""What is no JSONL, and what compression does that is odd and right: said with the step that mends it, or read."""

from __future__ import annotations

import codecs
import gzip
import os
from pathlib import Path

import orjson
import pytest
from backports import zstd
from backports.zstd import DecompressionParameter
from running import batch_of, jsonl, piped_through_zstd, request

from inbox_daemon.cli.check import faults_of
from inbox_daemon.config import Config
from inbox_daemon.errors import Rejected
from inbox_daemon.spool import complete, source

ASKED = [request(f"r{i}", f"say {i}") for i in range(3)]
ARRAY = orjson.dumps(ASKED)
PRETTY = b"\n".join(orjson.dumps(one, option=orjson.OPT_INDENT_2) for one in ASKED)
TEXT = jsonl(ASKED).decode()
LARGE = [request(f"r{i}", "x" * 50_000) for i in range(3)]


def said_of(path: Path, content: bytes) -> list[str]:
    """Return the sentences with which the inbox and `check` refuse a file; nothing where they take it as a batch."""
    path.write_bytes(content)
    refused = []
    try:
        for _ in complete.read_to_see(path, 1 << 30):
            pass
    except Rejected as rejected:
        refused.append(str(rejected))
    if fatal := faults_of(path, Config()).fatal:
        refused.append(fatal)
    return refused


@pytest.mark.parametrize(
    ("content", "step"),
    [
        (ARRAY, "`jq -c '.[]'`"),
        (ARRAY + b"\n", "`jq -c '.[]'`"),
        (b" [ " + ARRAY[1:], "`jq -c '.[]'`"),
        (codecs.BOM_UTF8 + ARRAY, "`jq -c '.[]'`"),
        (orjson.dumps(ASKED, option=orjson.OPT_INDENT_2), "`jq -c '.[]'`"),
        (ARRAY.replace(b'},{"custom_id"', b'},\n{"custom_id"'), "`jq -c '.[]'`"),
        (orjson.dumps(LARGE), "`jq -c '.[]'`"),
        (PRETTY, "`jq -c .`"),
        (PRETTY + b"\n", "`jq -c .`"),
        (PRETTY.replace(b"\n", b"\r\n"), "`jq -c .`"),
        (b"".join(orjson.dumps(one).replace(b',"url"', b',\n "url"') + b"\n" for one in ASKED), "`jq -c .`"),
        (TEXT.encode("utf-16-le"), "save it as UTF-8"),
        (TEXT.encode("utf-16-be"), "save it as UTF-8"),
        (TEXT.encode("utf-16"), "save it as UTF-8"),
        (TEXT.encode("utf-32-le"), "save it as UTF-8"),
        (TEXT.encode("utf-32-be"), "save it as UTF-8"),
        (jsonl(ASKED).replace(b"\n", b"\r"), "`tr '\\r' '\\n'`"),
        (jsonl(ASKED).replace(b"\n", b"\r")[:-1], "`tr '\\r' '\\n'`"),
        (jsonl(LARGE).replace(b"\n", b"\r"), "`tr '\\r' '\\n'`"),
    ],
)
def test_a_file_of_which_no_line_can_be_a_request_is_refused_with_what_mends_it(
    content: bytes, step: str, tmp_path: Path
) -> None:
    """In the inbox too, where the end of such a file may look like that of a cut upload."""
    said = said_of(tmp_path / "b.jsonl", content)
    assert len(said) == (1 if content.endswith(b"\n") else 2)  # what ends with a line's end has no end to be waited for
    assert len(set(said)) == 1
    assert step in said[0]


@pytest.mark.parametrize("content", [ARRAY, PRETTY, TEXT.encode("utf-16-le"), jsonl(ASKED).replace(b"\n", b"\r")])
def test_and_so_it_is_where_it_is_compressed(content: bytes, tmp_path: Path) -> None:
    [plain, _] = said_of(tmp_path / "b.jsonl", content)
    for name, packed in (("b.jsonl.gz", gzip.compress(content)), ("b.jsonl.zst", zstd.compress(content))):
        assert set(said_of(tmp_path / name, packed)) == {plain.replace("b.jsonl", name)}


@pytest.mark.parametrize(
    "bad",
    [ARRAY, b"[", b"[]", b"{", PRETTY.partition(b"\n")[0], b'{"custom_id": "cut",', b"a\rb", b"\x00\x00", b"{\x00\x00"],
)
def test_a_first_line_that_is_none_of_these_costs_itself_alone(bad: bytes, tmp_path: Path) -> None:
    content = bad + b"\n" + jsonl(ASKED)
    if bad == b"[":
        assert said_of(tmp_path / "b.jsonl", content)  # an array of which nobody closed the end, most likely
        return
    assert said_of(tmp_path / "b.jsonl", content) == []
    found = faults_of(tmp_path / "b.jsonl", Config())
    assert (found.requests, found.count) == (4, 1)


def test_gzip_padded_with_zeros_is_read_as_gunzip_reads_it(tmp_path: Path) -> None:
    """Tapes and disks pad to whole blocks; what follows the zeros is a stream again, or damage."""
    one, zeros = gzip.compress(batch_of(2)), bytes(70_000)
    assert said_of(tmp_path / "b.jsonl.gz", one + zeros) == []
    assert said_of(tmp_path / "b.jsonl.gz", one + zeros + gzip.compress(batch_of(1, "s")) + bytes(1)) == []
    assert faults_of(tmp_path / "b.jsonl.gz", Config()).requests == 3
    assert "cannot be decompressed" in said_of(tmp_path / "b.jsonl.gz", one + zeros + b"junk")[0]
    assert "cannot be decompressed" in said_of(tmp_path / "b.jsonl.gz", zeros + one)[0]


def test_a_zstd_window_that_would_take_too_much_memory_is_named(tmp_path: Path) -> None:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(batch_of(3)) + compressor.flush()
    [sentence] = set(said_of(tmp_path / "b.jsonl.zst", packed))
    assert "window of over 128 MB" in sentence
    assert "--long=27" in sentence


def kept(path: Path) -> list[int]:
    """What each block's reading keeps in memory."""
    fd = source.open_regular(path)
    try:
        unpacked = source.blocks(fd, path, 1 << 30)
        return [unpacked.kept for _ in unpacked]
    finally:
        os.close(fd)


@pytest.mark.parametrize("window", [10, 17, 21, 27])
def test_what_unpacking_a_file_keeps_in_memory_is_what_zstd_says_that_it_needs(tmp_path: Path, window: int) -> None:
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(piped_through_zstd(batch_of(2000), window))
    assert set(kept(path)) == {1 << window}
    needed = {DecompressionParameter.window_log_max: window}
    assert zstd.decompress(path.read_bytes(), options=needed) == batch_of(2000)
    if window > 10:  # the least that it may be told
        with pytest.raises(zstd.ZstdError, match="too much memory"):
            zstd.decompress(path.read_bytes(), options={DecompressionParameter.window_log_max: window - 1})


@pytest.mark.parametrize("size", [200, 5_000, 300_000])
def test_a_stream_whose_size_is_known_keeps_no_more_than_that_and_one_of_many_its_own(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "x.jsonl.zst"
    content = jsonl([request("a", "x" * size)])
    path.write_bytes(zstd.compress(content))
    assert set(kept(path)) == {len(content)}
    large = piped_through_zstd(batch_of(20_000), 22)
    path.write_bytes(zstd.compress(content) + large)
    assert kept(path)[-1] == 1 << 22
    path.write_bytes(large + zstd.compress(content))
    assert kept(path)[0] == 1 << 22 and kept(path)[-1] == len(content)
    path.with_suffix(".gz").write_bytes(gzip.compress(content))
    assert max(kept(path.with_suffix(".gz"))) == 1 << 15
