"""Unpacking: the listed members and nothing else, nowhere else; a hostile archive writes nothing at all."""

from __future__ import annotations

import gzip
import io
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kit_support as mini

from bequest.errors import InputError
from lab.kit import unpacking
from lab.kit.unpacking import unpack

MEMBERS = {"package/a.txt": b"one", "package/data/b.txt": b"two", "package/run.py": b"raise SystemExit"}


def test_listed_members_of_a_wheel_and_of_an_npm_archive(tmp_path: Path) -> None:
    for archive in (mini.wheel(tmp_path / "a.whl", MEMBERS), mini.npm_archive(tmp_path / "a.tgz", MEMBERS)):
        target = tmp_path / f"out-{archive.suffix}"
        written = unpack(archive, ["package/*.txt"], target)
        assert [path.relative_to(target).as_posix() for path in written] == ["package/a.txt", "package/data/b.txt"]
        assert (target / "package/data/b.txt").read_bytes() == b"two"
        assert not (target / "package/run.py").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_listed_members_of_a_debian_package(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: mini\nVersion: 1\nArchitecture: all\nMaintainer: n\nDescription: n\n"
    )
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share/a.txt").write_text("one")
    (tree / "usr/share/link.txt").symlink_to("/etc/passwd")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "mini.deb")], check=True, capture_output=True)
    unpack(tmp_path / "mini.deb", ["usr/share/a.txt"], tmp_path / "out")
    assert (tmp_path / "out/usr/share/a.txt").read_text() == "one"
    with pytest.raises(InputError, match="link or a device"):
        unpack(tmp_path / "mini.deb", ["usr/share/*"], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "package/../../evil.txt", "package\\..\\evil.txt"])
@pytest.mark.parametrize("kind", ["whl", "tgz"])
def test_a_name_that_leads_out_refuses_the_whole_archive(tmp_path: Path, name: str, kind: str) -> None:
    make = mini.wheel if kind == "whl" else mini.npm_archive
    archive = make(tmp_path / f"a.{kind}", {"package/a.txt": b"one", name: b"evil"})
    with pytest.raises(InputError, match="leads out of the target"):
        unpack(archive, ["package/a.txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE], ids=str)
def test_links_and_devices_of_a_tar_are_refused_when_listed(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "a.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        good = tarfile.TarInfo("package/a.txt")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"one"))
        link = tarfile.TarInfo("package/link.txt")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(InputError, match="link or a device"):
        unpack(archive, ["package/*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # Nothing is wrong with what is not listed: it is never written.
    assert [path.name for path in unpack(archive, ["package/a.txt"], tmp_path / "out")] == ["a.txt"]


def test_links_of_a_wheel_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as zipped:
        info = zipfile.ZipInfo("package/link.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="link or a device"):
        unpack(tmp_path / "a.whl", ["package/*"], tmp_path / "out")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = mini.wheel(tmp_path / "a.whl", {"package/a.txt": b"x" * 100, "package/b.txt": b"x" * 100})
    monkeypatch.setattr(unpacking, "MEMBER_BYTES", 100)
    assert len(unpack(archive, ["package/*"], tmp_path / "fits")) == 2
    monkeypatch.setattr(unpacking, "TOTAL_BYTES", 199)
    with pytest.raises(InputError, match="too large"):
        unpack(archive, ["package/*"], tmp_path / "total")
    monkeypatch.setattr(unpacking, "MEMBER_BYTES", 99)
    with pytest.raises(InputError, match="too large"):
        unpack(archive, ["package/a.txt"], tmp_path / "one")
    assert not (tmp_path / "total").exists() and not (tmp_path / "one").exists()


def test_twice_the_same_name_and_a_file_below_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "a.whl", "w") as zipped:
        zipped.writestr("package/a.txt", "one")
        zipped.writestr("package/a.txt", "two")
    with pytest.raises(InputError, match="there twice"):
        unpack(tmp_path / "a.whl", ["package/*"], tmp_path / "out")
    archive = mini.wheel(tmp_path / "b.whl", {"package/a": b"one", "package/a/b": b"two"})
    with pytest.raises(InputError, match="below another file"):
        unpack(archive, ["package/*"], tmp_path / "out")


def test_damage_and_absence_are_told_in_one_line(tmp_path: Path) -> None:
    whole = mini.npm_archive(tmp_path / "a.tgz", {"package/a.txt": bytes(range(256)) * 400})
    (tmp_path / "torn.tgz").write_bytes(whole.read_bytes()[:200])
    (tmp_path / "torn.whl").write_bytes(b"PK nothing")
    for name in ("torn.tgz", "torn.whl"):
        with pytest.raises(InputError, match="damaged"):
            unpack(tmp_path / name, ["package/*"], tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        unpack(tmp_path / "absent.whl", ["*"], tmp_path / "out")
    with pytest.raises(InputError, match=r"no member that matches 'other/\*'"):
        unpack(whole, ["package/*", "other/*"], tmp_path / "out")
    with pytest.raises(InputError, match="not an archive"):
        unpack(tmp_path / "a.rar", ["*"], tmp_path / "out")


def zip_of(path: Path, name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as zipped:
        zipped.writestr(name, data)
    return path


def harmed(path: Path, position: int, value: int, *, central: int | None = None) -> Path:
    """The same file with the byte at ``position`` set; ``central`` is that of the field in a zip's central record."""
    data = bytearray(path.read_bytes())
    data[position] = value
    if central is not None:
        data[data.index(b"PK\x01\x02") + central] = value
    path.write_bytes(data)
    return path


HARMED_ZIPS: dict[str, Callable[[Path], Path]] = {
    # Flags and method stand at 6 and 8 of a member's own record, at 8 and 10 of the central one.
    "encrypted": lambda path: harmed(zip_of(path, "package/a.txt", b"one" * 99), 6, 1, central=8),
    "unknown-method": lambda path: harmed(zip_of(path, "package/a.txt", b"one" * 99), 8, 97, central=10),
    "lzma": lambda path: harmed(zip_of(path, "package/a.txt", bytes(range(256)) * 9, zipfile.ZIP_LZMA), 56, 255),
    "bzip2": lambda path: harmed(zip_of(path, "package/a.txt", bytes(range(256)) * 9, zipfile.ZIP_BZIP2), 56, 255),
    "deflate": lambda path: harmed(zip_of(path, "package/a.txt", bytes(range(256)) * 9, zipfile.ZIP_DEFLATED), 56, 255),
    # The end record's offset of the directory, at 16: the directory then begins before the file does.
    "offset": lambda path: harmed(zip_of(path, "package/a.txt", b"one"), -3, 255),
    "stored": lambda path: harmed(zip_of(path, "package/a.txt", bytes(range(256)) * 9), 56, 255),
}


@pytest.mark.parametrize("harm", HARMED_ZIPS)
def test_a_zip_that_cannot_be_read_is_one_line(tmp_path: Path, harm: str) -> None:
    archive = HARMED_ZIPS[harm](tmp_path / "a.whl")
    with pytest.raises(InputError, match=r"a\.whl: the archive (is damaged|cannot be read) \("):
        unpack(archive, ["package/*"], tmp_path / "out")


def tgz(path: Path, names: Sequence[str], content: bytes = b"one") -> Path:
    return mini.npm_archive(path, {"package/a.txt": content, **dict.fromkeys(names, b"two")})


@pytest.mark.parametrize("kind", ["whl", "tgz"])
@pytest.mark.parametrize("name", ["package/" + "x" * 256, "package/" + "\u00e9" * 128, "package" + "/x" * 600])
def test_a_name_that_is_too_long_for_a_disk_is_refused_where_it_is_listed(tmp_path: Path, kind: str, name: str) -> None:
    make = mini.wheel if kind == "whl" else mini.npm_archive
    archive = make(tmp_path / f"a.{kind}", {"package/a.txt": b"one", name: b"two"})
    with pytest.raises(InputError, match="its name is too long"):
        unpack(archive, ["package/*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(unpack(archive, ["package/a.txt"], tmp_path / "out")) == 1
    longest = make(tmp_path / f"b.{kind}", {"package/" + "x" * 255: b"one"})
    assert len(unpack(longest, ["package/*"], tmp_path / "out-b")) == 1


# In a zip, a name that ends in a slash is a directory's.
@pytest.mark.parametrize(
    ("kind", "name"),
    [("whl", "."), ("whl", "./."), ("tgz", ""), ("tgz", "."), ("tgz", "./."), ("tgz", "./")],
)
def test_a_file_without_a_name_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    make = mini.wheel if kind == "whl" else mini.npm_archive
    archive = make(tmp_path / f"a.{kind}", {"package/a.txt": b"one", name: b"two"})
    with pytest.raises(InputError, match="it has no name"):
        unpack(archive, ["*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "why"), [("", "it has no name"), ("\0x", "leads out of the target")], ids=ascii)
def test_a_zip_s_member_whose_name_is_empty_or_begins_with_nul_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as zipped:
        info = zipfile.ZipInfo("package/a.txt")
        info.filename = name
        with zipped.open(info, "w") as member:
            member.write(b"two")
    with pytest.raises(InputError, match=why):
        unpack(tmp_path / "a.whl", ["*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["content", "checksum", "length", "cut"])
def test_a_compressed_tar_with_another_checksum_is_refused_before_anything_is_written(
    tmp_path: Path, place: str
) -> None:
    content = bytes(range(256)) * 40
    plain = tgz(tmp_path / "a.tgz", [], content)
    tar = gzip.decompress(plain.read_bytes())
    # Stored, not compressed: a flipped byte is then another content, and only the checksum knows.
    data = bytearray(gzip.compress(tar, compresslevel=0))
    if place == "content":
        data[data.index(content[:64]) + 7] ^= 1
    elif place == "cut":
        del data[-6:]
    else:
        data[-8 if place == "checksum" else -4] ^= 1
    (tmp_path / "b.tgz").write_bytes(data)
    with pytest.raises(InputError, match=r"b\.tgz: the archive is damaged"):
        unpack(tmp_path / "b.tgz", ["package/*"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert unpack(plain, ["package/*"], tmp_path / "out")[0].read_bytes() == content


def test_an_error_of_the_disk_is_not_the_archive_s(tmp_path: Path) -> None:
    archive = tgz(tmp_path / "a.tgz", [])
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        unpack(archive, ["package/*"], tmp_path / "out")
