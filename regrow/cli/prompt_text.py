"""Decodes the bytes of a prompt file as text."""

from __future__ import annotations

import codecs
import gzip
import zlib

from regrow.errors import UsageError

# Encodings by byte order mark. UTF-32 comes first, because its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_PACKED = {
    b"PK\x03\x04": "a zip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
_OTHERS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF file",
    b"\x89HDF": "an HDF5 file",
}
_GZIP = b"\x1f\x8b"


def decode(name: str, data: bytes) -> str:
    """Decodes UTF-8, or UTF-16 or UTF-32 with a byte order mark. Gzip is unpacked first.

    `name` names the file in errors. Raises UsageError for anything else.
    """
    if data.startswith(_GZIP):
        data = _unpacked(name, data)
    for start, what in (_PACKED | _OTHERS).items():
        if data.startswith(start):
            todo = "unpack it" if start in _PACKED else "convert it to JSON lines"
            raise UsageError(f"{name} is {what}, not text; {todo}")
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _MARKS.items() if data.startswith(mark)), (b"", "utf-8")
    )
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].count("\n".encode(encoding)) + 1
        label = encoding.removesuffix("-le").removesuffix("-be").upper()
        place = f"byte {error.start + len(mark)}, line {line}"
        raise UsageError(f"{name} is not {label} text ({place}); convert it to UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(
            f"{name}, line {line} holds a null byte, so it is not plain text; convert it to UTF-8"
        )
    return text


def _unpacked(name: str, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name} is a damaged gzip file ({error}); copy it again or unpack it") from error
