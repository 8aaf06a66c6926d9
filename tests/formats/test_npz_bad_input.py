"""`.npz` archives that are damaged, hostile or of an unsupported kind: refused in one line, within little memory, and nothing is left."""

from __future__ import annotations

import bz2
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leakycli import Options, info, verify
from leakycli.errors import CorruptError, LeakyError, UnsupportedError, UsageError
from tests.conftest import Run
from tests.formats.test_npy import defined, same, saved, values
from tests.formats.test_npz import METHODS, Array, Members, archive, arrays, members, raw, run

X = values("float32", (40, 50))

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Check that the error comes, names `in.npz` and more, can be shown as it is, and that nothing is written; returns its text."""

    def check(kind: type[LeakyError] | tuple[type[LeakyError], ...], *names: str, **options: Any) -> str:
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        texts = []
        for dest in ("out.npz", "out.npy") if options.pop("npy", False) else ("out.npz",):
            with pytest.raises(kind) as raised:
                run(tmp_path / "in.npz", tmp_path / dest, **options)
            texts.append(str(raised.value))
            assert raised.value.exit_code == (2 if isinstance(raised.value, UsageError) else 3)
            for name in (str(tmp_path / "in.npz"), *names):
                assert name in texts[-1]
            assert texts[-1].isprintable()
            assert len(texts[-1]) < len(str(tmp_path)) + 300
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        return texts[0]

    return check


def failure(source: Path, dest: Path, **options: Any) -> str | None:
    """What an error of ours said; None without one. Any other goes through."""
    try:
        run(source, dest, reports=("none",), **options)
    except LeakyError as error:
        return str(error)
    return None


def entry(opened: zipfile.ZipFile, name: str = "x.npy") -> zipfile.ZipInfo:
    return opened.getinfo(name)


def claims(name: str = "x.npy", **fields: Any) -> Callable[[zipfile.ZipFile], None]:
    """Let the directory say other things of a member than its local header."""

    def change(opened: zipfile.ZipFile) -> None:
        for field, value in fields.items():
            setattr(opened.getinfo(name), field, value)

    return change


def sound(path: Path, method: str = "deflated") -> bytes:
    return archive(path, {"x.npy": X, "y.npy": X[:7], "note": b"note" * 20}, METHODS[method]).read_bytes()


NO_ARCHIVE = {
    "empty": b"",
    "text": b"1.0, 2.0, 3.0\n" * 100,
    "signature only": b"PK\3\4",
    "end signature only": b"PK\5\6",
    "local header only": b"PK\3\4" + bytes(100),
    "end record with claims": b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 9, 9, 999, 999, 0),
    "end record with ZIP64 claims": b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0),
    "empty zip": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("kind", NO_ARCHIVE)
def test_what_is_no_archive_is_refused(tmp_path: Path, refused: Refused, kind: str) -> None:
    (tmp_path / "in.npz").write_bytes(NO_ARCHIVE[kind])
    line = refused(CorruptError, npy=True)
    with pytest.raises(CorruptError) as raised:
        info(str(tmp_path / "in.npz"))
    assert str(raised.value) == line


@pytest.mark.parametrize("given", [{}, {"note.txt": b"text"}, {"folder/": b"", "folder/a.csv": b"1,2"}])
def test_an_archive_without_arrays_is_refused(tmp_path: Path, refused: Refused, given: dict[str, bytes]) -> None:
    archive(tmp_path / "in.npz", given)
    assert "no arrays" in refused(CorruptError, npy=True)


@pytest.mark.parametrize("method", METHODS)
def test_an_archive_that_is_cut_off_is_refused_wherever_it_ends(tmp_path: Path, refused: Refused, method: str) -> None:
    data = sound(tmp_path / "in.npz", method)
    directory = int.from_bytes(data[-6:-2], "little")
    cuts = {4, 29, 30, 35, 60, 200, directory // 2, directory - 1, directory, directory + 4, directory + 46, directory + 60}
    for cut in sorted(cuts | set(range(len(data) - 30, len(data)))):
        (tmp_path / "in.npz").write_bytes(data[:cut])
        refused(CorruptError)


@pytest.mark.parametrize("removed", [1, 50, 300])
def test_an_archive_that_lacks_a_piece_is_refused(tmp_path: Path, refused: Refused, removed: int) -> None:
    data = sound(tmp_path / "in.npz", "stored")
    for at in (10, 200, 5000, 8200):
        (tmp_path / "in.npz").write_bytes(data[:at] + data[at + removed :])
        refused(CorruptError)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options", [{}, {"skip": ("x",)}, {"skip": ("x",), "compressor": "deflate"}, {"skip": ("x",), "compressor": "stored"}]
)
def test_a_wrong_crc_is_found_in_transformed_and_in_copied_members(
    tmp_path: Path, refused: Refused, method: str, options: dict[str, Any]
) -> None:
    archive(tmp_path / "in.npz", {"x.npy": X, "y.npy": X}, METHODS[method], change=claims(CRC=1234))
    refused(CorruptError, "x.npy", **options)
    archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X[:0]}, METHODS[method], change=claims(CRC=1234))
    refused(CorruptError, "x.npy", **options)


def test_a_wrong_crc_is_found_in_a_copied_member_that_is_no_array(tmp_path: Path, refused: Refused) -> None:
    for method in METHODS.values():
        archive(tmp_path / "in.npz", {"x.npy": X, "note": b"note" * 50}, method, change=claims("note", CRC=1234))
        refused(CorruptError, "note")


def test_a_wrong_crc_is_found_when_an_array_is_taken_out_and_by_verify(tmp_path: Path) -> None:
    for method in METHODS.values():
        source = archive(tmp_path / "in.npz", {"x.npy": X}, method, change=claims(CRC=1234))
        with pytest.raises(CorruptError, match=r"in\.npz.*x\.npy"):
            run(source, tmp_path / "out.npy")
        (tmp_path / "y.npy").write_bytes(saved(defined(X)))
        with pytest.raises(CorruptError, match=r"in\.npz.*x\.npy"):
            verify(str(source), str(tmp_path / "y.npy"))
        (tmp_path / "y.npy").unlink()
    assert os.listdir(tmp_path) == ["in.npz"]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("workers", [1, 4])
def test_one_flipped_bit_in_a_large_stored_member_is_found(tmp_path: Path, refused: Refused, at: float, workers: int) -> None:
    data = bytearray(archive(tmp_path / "in.npz", {"x.npy": values("float32", (3_000_000,))}).read_bytes())
    data[int(at * len(data))] ^= 1
    (tmp_path / "in.npz").write_bytes(data)
    refused(CorruptError, "x.npy", workers=workers)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("more", [-9000, -1, 1, 100, 1 << 20, 1 << 50])
@pytest.mark.parametrize("options", [{}, {"skip": ("x",)}, {"skip": ("x",), "compressor": "deflate:9"}])
def test_a_member_that_is_longer_or_shorter_than_declared_is_refused(
    tmp_path: Path, refused: Refused, method: str, more: int, options: dict[str, Any]
) -> None:
    x = np.resize(X, 4000)
    size = len(saved(x)) + more
    archive(tmp_path / "in.npz", {"x.npy": x, "y.npy": X}, METHODS[method], change=claims(file_size=size))
    refused(CorruptError, "x.npy", **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("more", [-100, 1 << 20, 1 << 50])
def test_compressed_data_that_is_longer_or_shorter_than_declared_is_refused(
    tmp_path: Path, refused: Refused, method: str, more: int
) -> None:
    def change(opened: zipfile.ZipFile) -> None:
        entry(opened).compress_size += more

    archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, METHODS[method], change=change)
    refused(CorruptError, "x.npy")
    refused(CorruptError, "x.npy", skip=("x",))


@pytest.mark.parametrize("offset", [1, 20, 10**5, 1 << 50, (1 << 64) - 1])
def test_a_member_that_is_not_where_the_directory_says_is_refused(tmp_path: Path, refused: Refused, offset: int) -> None:
    archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, change=claims(header_offset=offset))
    refused(CorruptError, "x.npy")


@pytest.mark.parametrize("method", METHODS)
def test_an_array_that_its_member_has_no_room_for_is_refused(tmp_path: Path, refused: Refused, method: str) -> None:
    data = saved(X)
    for cut in (len(data) - 1, 200, 128):
        archive(tmp_path / "in.npz", {"x.npy": data[:cut]}, METHODS[method])
        refused(CorruptError, "x.npy", npy=True)
    huge = b"\x93NUMPY\1\0" + struct.pack("<H", 64) + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,)}" % (1 << 48)
    archive(tmp_path / "in.npz", {"x.npy": huge.ljust(74) + bytes(64)}, METHODS[method])
    refused(CorruptError, "x.npy", npy=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_header_of_an_array_is_refused(tmp_path: Path, refused: Refused, method: str) -> None:
    data = saved(X)
    for bad in (b"", b"\x93", data[:9], data[:60], b"nonsense" * 20, data.replace(b"'shape'", b"'shade'"), data[:6] + b"\7" + data[7:]):
        archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": bad}, METHODS[method])
        refused(CorruptError, "x.npy")


@pytest.mark.parametrize("options", [{}, {"skip": ("x",)}])
def test_an_encrypted_member_is_refused(tmp_path: Path, refused: Refused, options: dict[str, Any]) -> None:
    archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, change=claims(flag_bits=1))
    assert "encrypted" in refused(UnsupportedError, "x.npy", **options)


@pytest.mark.parametrize("method", [1, 6, 9, 93, 95, 99, 65535])
def test_a_compression_that_is_not_known_is_refused(tmp_path: Path, refused: Refused, method: int) -> None:
    archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, change=claims(compress_type=method))
    refused((CorruptError, UnsupportedError), "x.npy")
    archive(tmp_path / "in.npz", {"y.npy": X, "x.txt": b"text"}, change=claims("x.txt", compress_type=method))
    refused((CorruptError, UnsupportedError), "x.txt")


@pytest.mark.parametrize("method", ["deflated", "bzip2", "lzma"])
def test_data_of_another_compression_is_refused(tmp_path: Path, refused: Refused, method: str) -> None:
    for other in METHODS:
        if other != method:
            archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, METHODS[other], change=claims(compress_type=METHODS[method]))
            refused(CorruptError, "x.npy")


class Unpickled:
    """Whoever unpickles one makes a file called `unpickled`."""

    def __reduce__(self) -> Any:
        return os.mknod, ("unpickled",)


KINDS: dict[str, tuple[bytes, str]] = {
    "bool": (saved(np.zeros(4, bool)), "bool"),
    "complex": (saved(np.zeros(4, "c8")), "complex"),
    "structured": (saved(np.zeros(4, [("a", "f4")])), "structured"),
    "string": (saved(np.array(["a", "b"])), "string"),
    "datetime": (saved(np.zeros(4, "M8[s]")), "datetime"),
    "bfloat16": (saved(np.zeros(4, "V2")), "bfloat16"),
    "object": (saved(np.array([Unpickled(), 1], object)), "object"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_without_a_leaky_relu_is_refused_when_chosen_and_copied_when_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, kind: str, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data, named = KINDS[kind]
    source, dest = archive(tmp_path / "in.npz", {"x.npy": data, "y.npy": X}, METHODS[method]), tmp_path / "out.npz"
    assert named in refused(UnsupportedError, "x.npy")
    assert named in refused(UnsupportedError, "x.npy", only=("x",), npy=True)
    run(source, dest, skip=("x",), verify=True)
    assert list(members(dest)) == ["x.npy", "y.npy"]
    assert raw(dest, "x.npy") == raw(source, "x.npy")
    assert same(np.load(BytesIO(members(dest)["y.npy"])), defined(X))
    assert verify(str(source), str(dest), Options(only=("y",))).equal
    assert info(str(source)).format == "npz"
    assert sorted(os.listdir(tmp_path)) == ["in.npz", "out.npz", "out.npz.report.json"]


HOSTILE = {
    "above": "../x.npy",
    "far above": "../" * 20 + "tmp/x.npy",
    "absolute": "/etc/x.npy",
    "drive": "C:\\x.npy",
    "escape sequences": "a\x1b[31m\x1b]0;title\x07.npy",
    "newline": "a\nleakycli: done.npy",
    "markup": "[red]x.npy",
    "unclosed markup": "[bold][link=x.npy",
    "format codes": "%s{0}{name}.npy",
    "right to left": "\u202egnp.npy",
    "not ASCII": "größe-\U0001f980.npy",
    "only a suffix": ".npy",
    "dot": ".",
    "spaces": "  ",
    "option-like": "--alpha.npy",
    "no name": "",
    "long": "n" * 60_000 + ".npy",
    "long, not ASCII": "\u2591" * 20_000 + ".npy",
}


@pytest.mark.parametrize("method", ["stored", "deflated"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_is_a_name_like_any_other(tmp_path: Path, kind: str, method: str) -> None:
    name, outside = HOSTILE[kind], {path: path.exists() for path in (Path("/etc/x.npy"), Path("/tmp/x.npy"))}
    folder = tmp_path / "folder"
    folder.mkdir()
    source, dest = archive(folder / "in.npz", {"arr_0.npy": X[:3], name: X}, METHODS[method]), folder / "out.npz"
    run(source, dest, verify=True)
    found = members(dest)
    assert list(found) == ["arr_0.npy", name]
    assert same(np.load(BytesIO(found[name])), defined(X))
    run(source, dest, only=("arr_0",), verify=True, overwrite=True)
    assert raw(dest, name) == raw(source, name)
    assert sorted(os.listdir(folder)) == ["in.npz", "out.npz", "out.npz.report.json"]
    assert os.listdir(tmp_path) == ["folder"]
    assert {path: path.exists() for path in outside} == outside
    json.loads((folder / "out.npz.report.json").read_text())


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if not kind.startswith("long")])
def test_a_hostile_name_in_a_message_is_escaped(tmp_path: Path, refused: Refused, kind: str) -> None:
    name = HOSTILE[kind]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    archive(tmp_path / "in.npz", {"y.npy": X, name: X}, change=claims(name, CRC=1))
    refused(CorruptError, shown)
    refused(UsageError, shown.removesuffix(".npy"), only=("nothing",))


def test_hostile_names_do_not_steer_the_terminal(leakycli: Run, tmp_path: Path) -> None:
    archive(tmp_path / "in.npz", dict.fromkeys(HOSTILE.values(), X))
    for arguments in (("apply", "in.npz", "out.npz"), ("verify", "in.npz", "out.npz"), ("info", "in.npz"), ("apply", "in.npz", "out.npy")):
        done = leakycli(*arguments, env={"PYTHONIOENCODING": "utf-8"})
        assert done.returncode == (2 if arguments[-1] == "out.npy" else 0), done.stderr
        assert (done.stdout + done.stderr).decode().replace("\n", "").isprintable()
        assert b"leakycli: done" not in done.stdout.replace(b"\\nleakycli: done", b"")
    assert sorted(os.listdir(tmp_path)) == ["in.npz", "out.npz", "out.npz.report.json"]


def test_a_name_that_outgrows_the_format_in_utf_8_is_an_error_of_ours_at_most(tmp_path: Path) -> None:
    """Names without the UTF-8 flag are code page 437, one byte a character; in UTF-8 they take up to three."""
    source, dest = archive(tmp_path / "in.npz", {"A" * 30_000: X}), tmp_path / "out.npz"
    source.write_bytes(source.read_bytes().replace(b"A" * 30_000, b"\xb0" * 30_000))
    if (error := failure(source, dest)) is not None:
        assert str(source) in error
        assert os.listdir(tmp_path) == ["in.npz"]
    else:
        assert list(arrays(dest)) == ["\u2591" * 30_000]


def test_a_name_in_code_page_437_is_kept(tmp_path: Path) -> None:
    source, dest = archive(tmp_path / "in.npz", {"AAA.npy": X}), tmp_path / "out.npz"
    source.write_bytes(source.read_bytes().replace(b"AAA.npy", b"gr\x94.npy"))
    run(source, dest, verify=True)
    assert list(arrays(dest)) == ["grö"]


_PEAK = """
import json, sys
from leakycli import Options, apply
from leakycli.errors import LeakyError

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10

options = {"workers": 1, "reports": ("none",)}
apply("warm.npz", "out.npz", Options(compressor="deflate", overwrite=True, **options))
before, outcome = peak(), "done"
try:
    apply("in.npz", "out2.npz", Options(**options, **json.loads(sys.argv[1])))
except LeakyError as error:
    outcome = type(error).__name__ + " " + str(error)
print(json.dumps([outcome, peak() - before]))
"""


@pytest.fixture
def grown(tmp_path: Path) -> Callable[..., tuple[str, int]]:
    """Outcome of a run in a process of its own, and the bytes its peak of resident memory grew by."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of resident memory is Linux's to tell")
    archive(tmp_path / "warm.npz", {"x.npy": np.zeros(3_000_000, np.float32)}, zipfile.ZIP_DEFLATED)

    def grow(**options: Any) -> tuple[str, int]:
        command = [sys.executable, "-W", "ignore", "-c", _PEAK, json.dumps(options)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert sorted(set(os.listdir(tmp_path)) - {"out2.npz"}) == ["in.npz", "out.npz", "warm.npz"]
        outcome, size = json.loads(done.stdout)
        assert (tmp_path / "out2.npz").exists() == (outcome == "done")
        return outcome, size

    return grow


#: One worker's, with room for what the system adds.
_LITTLE = 24 << 20

_BOMB = 64 << 20


@pytest.mark.parametrize("name", ["x.npy", "note"])
@pytest.mark.parametrize("method", ["deflated", "bzip2", "lzma"])
def test_a_bomb_costs_little_memory(tmp_path: Path, grown: Callable[..., tuple[str, int]], name: str, method: str) -> None:
    """The directory declares a small member; the data goes on for much longer."""
    start = b"text" if name == "note" else saved(X)
    archive(tmp_path / "in.npz", {name: start + bytes(_BOMB), "y.npy": X}, METHODS[method], 1, change=claims(name, file_size=len(start)))
    for options in ({}, {"skip": [name.removesuffix(".npy")], "compressor": "deflate"}):
        outcome, size = grown(**options)
        assert outcome.startswith("CorruptError in.npz: "), outcome
        assert name in outcome
        assert size < _LITTLE


@pytest.mark.parametrize("method", ["deflated", "lzma"])
@pytest.mark.parametrize("name", ["x.npy", "note"])
def test_a_claim_of_2_to_the_50_bytes_costs_little_memory(
    tmp_path: Path, grown: Callable[..., tuple[str, int]], method: str, name: str
) -> None:
    data = saved(X) if name == "x.npy" else b"note" * 999
    archive(tmp_path / "in.npz", {name: data, "y.npy": X}, METHODS[method], change=claims(name, file_size=1 << 50))
    outcome, size = grown()
    assert outcome.startswith("CorruptError in.npz: "), outcome
    assert name in outcome
    assert size < _LITTLE


@pytest.mark.parametrize("method", ["deflated", "bzip2", "lzma"])
@pytest.mark.parametrize("options", [{}, {"only": ["y"], "compressor": "stored"}])
def test_much_that_was_compressed_to_little_costs_little_memory(
    tmp_path: Path, grown: Callable[..., tuple[str, int]], method: str, options: dict[str, Any]
) -> None:
    archive(tmp_path / "in.npz", {"x.npy": np.zeros(_BOMB // 4, "f4"), "y.npy": X}, METHODS[method], 1)
    outcome, size = grown(**options)
    assert outcome == "done"
    assert size < _LITTLE


def test_a_directory_of_many_claims_on_the_same_bytes_is_no_way_to_write_much(tmp_path: Path) -> None:
    """Members that overlap: each entry of the directory names one local header. Read as they are, they are sound."""
    source, dest = tmp_path / "in.npz", tmp_path / "out.npz"

    def change(opened: zipfile.ZipFile) -> None:
        for other in opened.infolist()[1:]:
            other.header_offset = 0

    archive(source, {f"{i}.npy": X for i in range(5)}, zipfile.ZIP_DEFLATED, change=change)
    if (error := failure(source, dest)) is not None:
        assert "in.npz" in error
        assert os.listdir(tmp_path) == ["in.npz"]
    else:
        assert all(same(y, defined(X)) for y in arrays(dest).values())


def test_deflated_data_with_something_behind_its_end(tmp_path: Path) -> None:
    """`unzip` and numpy stop at the end of the deflated data; so does leakycli, or it says that the member is damaged."""
    data, packed = saved(X), zlib.compressobj(6, zlib.DEFLATED, -15)
    compressed = packed.compress(data) + packed.flush() + b"garbage" * 10
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as made:
        made.writestr("x.npy", compressed)
        claims(compress_type=8, file_size=len(data), CRC=zlib.crc32(data))(made)
    if (error := failure(tmp_path / "in.npz", tmp_path / "out.npz")) is not None:
        assert "x.npy" in error
    else:
        assert same(arrays(tmp_path / "out.npz")["x"], defined(X))


def test_several_bzip2_streams_in_a_member_are_refused_or_read_whole(tmp_path: Path) -> None:
    data = saved(X)
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as made:
        made.writestr("x.npy", bz2.compress(data[:500]) + bz2.compress(data[500:]))
        claims(compress_type=12, file_size=len(data), CRC=zlib.crc32(data))(made)
    if (error := failure(tmp_path / "in.npz", tmp_path / "out.npz")) is not None:
        assert "x.npy" in error
    else:
        assert same(arrays(tmp_path / "out.npz")["x"], defined(X))


@pytest.mark.parametrize("kind", ["corrupt", "unsupported"])
def test_a_failed_run_leaves_an_old_destination_as_it_was(tmp_path: Path, refused: Refused, kind: str) -> None:
    (tmp_path / "out.npz").write_bytes(b"precious")
    if kind == "corrupt":
        archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": X}, change=claims(CRC=1))
        refused(CorruptError, "x.npy", overwrite=True)
    else:
        archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": np.zeros(3, bool)})
        refused(UnsupportedError, "x.npy", overwrite=True)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("method", ["stored", "deflated"])
def test_damage_far_into_a_large_member_leaves_nothing(tmp_path: Path, refused: Refused, method: str, workers: int) -> None:
    x = np.random.default_rng(5).standard_normal(2_500_000).astype("f4")
    data = bytearray(archive(tmp_path / "in.npz", {"y.npy": X, "x.npy": x}, METHODS[method], 1).read_bytes())
    data[len(data) * 2 // 3 : len(data) * 2 // 3 + 50] = bytes(50)
    (tmp_path / "in.npz").write_bytes(data)
    refused(CorruptError, "x.npy", workers=workers)


def test_a_bad_archive_on_the_command_line_gives_one_line_and_exit_code_3(leakycli: Run, tmp_path: Path) -> None:
    archive(tmp_path / "in.npz", {"x.npy": X}, zipfile.ZIP_DEFLATED, change=claims(CRC=1))
    for arguments in (("apply", "in.npz", "out.npz"), ("verify", "in.npz", "in.npz"), ("apply", "in.npz", "out.npy")):
        done = leakycli(*arguments)
        assert done.returncode == 3, done.stderr
        assert done.stdout == b""
        assert done.stderr.startswith(b"leakycli: in.npz: member x.npy: ")
        assert done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == ["in.npz"]


def _fuzzed() -> list[tuple[bytes, list[Array]]]:
    given: Members = {
        "a.npy": X[:5, :9],
        "b.bin": np.asfortranarray(X[:3, :4]).astype(">f8"),
        "note": b"a note",
        "c.npy": np.arange(-40, 40),
    }
    folder, found = Path(tempfile.mkdtemp()), list[tuple[bytes, list[Array]]]()
    for method in METHODS.values():
        found.append((archive(folder / "a.npz", given, method).read_bytes(), [x for x in given.values() if not isinstance(x, bytes)]))
    shutil.rmtree(folder)
    return found


_BASES = _fuzzed()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from(range(len(_BASES))),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans()), min_size=1, max_size=3),
    copied=st.booleans(),
)
@example(base=0, edits=[(0.5, 1, False)], copied=True)
def test_flipped_bits_give_the_right_result_or_an_error_of_ours(base: int, edits: list[tuple[float, int, bool]], copied: bool) -> None:
    whole, given_arrays = _BASES[base]
    data, directory = bytearray(whole), int.from_bytes(whole[-6:-2], "little")
    for at, bits, late in edits:
        # Half of them in the directory, where most of what can be believed stands.
        data[directory + int(at * (len(data) - directory)) if late else int(at * directory)] ^= bits
    wanted = [y if x.dtype.isnative else y.astype(y.dtype.newbyteorder("S")) for x in given_arrays for y in (defined(x),)]
    folder = Path(tempfile.mkdtemp())
    try:
        source, dest = folder / "in.npz", folder / "out.npz"
        source.write_bytes(data)
        with warnings.catch_warnings():
            # zipfile's own, of the archive.
            warnings.simplefilter("ignore", UserWarning)
            error = failure(source, dest, workers=1, only=("a",) if copied else ())
        if error is not None:
            assert str(source) in error
            assert error.isprintable()
            assert os.listdir(folder) == ["in.npz"]
        else:
            assert sorted(os.listdir(folder)) == ["in.npz", "out.npz"]
            with zipfile.ZipFile(source) as opened:
                names = set(opened.namelist())
            found = members(dest)
            if "" not in names:
                assert set(found) == names
            read = [np.load(BytesIO(member)) for member in found.values() if member.startswith(b"\x93NUMPY")]
            for y in read:
                assert any(same(y, known) for known in (*wanted, *(given_arrays if copied else ())))
            if len(names) == 4:
                assert len(read) == 3
        assert source.read_bytes() == data
    finally:
        shutil.rmtree(folder)
