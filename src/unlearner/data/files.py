"""What lies at a path: one file, plain or packed, or a folder of them; bytes and text of each.

Formats are the matter of `readers.py`; here a path becomes files that can be read, or is refused.
"""

import bz2
import codecs
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unlearner.data.problems import SourceError, one_line, reason
from unlearner.files import kind_of_file

PACKED = (".gz", ".bz2", ".xz", ".zst")

# Text is packed to a third or a tenth of its size; what unpacks to far more is a trap or a mistake.
MOST_UNPACKED_RATIO = 200
ALWAYS_UNPACKED = 64 * 2**20  # bytes that any packed file may have
MOST_UNPACKED = 8 * 2**30

# Written beside the shards by `datasets` and by frameworks that write in parts.
NO_RECORDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
SPLIT_NAMES = ("train", "validation", "valid", "val", "dev", "test", "eval")


@dataclass(frozen=True)
class DataFile:
    """A file of records.

    Attributes:
        path: Where it is.
        suffix: Its kind, in lower case, without that of the packing.
        packing: One of `PACKED`, or empty.
        shard: Its name where it is one of a folder's files, else empty.
    """

    path: Path
    suffix: str
    packing: str = ""
    shard: str = ""

    @classmethod
    def at(cls, path: Path, shard: str = "") -> "DataFile":
        """The file with the kind that its name says."""
        suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
        packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
        return cls(path, suffixes[-1] if suffixes else "", packing, shard)

    def open(self) -> IO[bytes]:
        """The bytes as they are without the packing, from which one can go back.

        Raises:
            SourceError: The file cannot be read or unpacked.
        """
        try:
            if not self.packing:
                return self.path.open("rb")
            return io.BytesIO(self._unpacked())
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            if self.packing:
                what = f"cannot be unpacked as {self.packing} ({reason(error)})"
                raise SourceError(f"{what}; pack it again, or give it unpacked") from error
            raise SourceError(f"cannot be read ({reason(error)})") from error

    def _unpacked(self) -> bytes:
        allowed = min(
            MOST_UNPACKED, max(ALWAYS_UNPACKED, MOST_UNPACKED_RATIO * self.path.stat().st_size)
        )
        with self._stream() as stream:
            parts, size = [], 0
            while part := stream.read(2**20):
                parts.append(part)
                size += len(part)
                if size > allowed:
                    raise SourceError(
                        f"unpacks to more than {allowed // 2**20} MiB; if that is right, give it "
                        "unpacked or in several files"
                    )
        return b"".join(parts)

    def _stream(self) -> IO[bytes]:
        if self.packing == ".gz":
            return gzip.GzipFile(self.path)  # type: ignore[return-value]
        if self.packing == ".bz2":
            return bz2.BZ2File(self.path)  # type: ignore[return-value]
        if self.packing == ".xz":
            return lzma.LZMAFile(self.path)  # type: ignore[return-value]
        import pyarrow as pa

        return pa.input_stream(str(self.path), compression="zstd")  # type: ignore[return-value]

    def text(self) -> str:
        """The text, without a byte-order mark and with the line ends of today's systems.

        Raises:
            SourceError: It cannot be read, or is not UTF-8, or UTF-16 or UTF-32 with a mark.
        """
        with self.open() as file:
            try:
                raw = file.read()
            except OSError as error:
                raise SourceError(f"cannot be read ({reason(error)})") from error
        text = _decoded(raw)
        # Line ends of the first Macintosh, which some spreadsheets still write.
        return text.replace("\r", "\n") if "\r" in text and "\n" not in text else text


# UTF-32's mark of little ends begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _decoded(raw: bytes) -> str:
    mark, encoding = next((one for one in MARKS if raw.startswith(one[0])), (b"", "utf-8"))
    start = raw[:4096]
    if not mark and start.count(0) > len(start) // 4:
        raise SourceError("looks like UTF-16 without a byte-order mark; save the file as UTF-8")
    try:
        return raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            what = f"broken {encoding[:6].upper()} at offset {len(mark) + error.start}"
            raise SourceError(f"{what}; save the file as UTF-8") from error
        offset = len(mark) + error.start
        what = f"not UTF-8 (byte 0x{raw[offset]:02x} at offset {offset})"
        if _is_western(raw):
            what += ", perhaps Windows-1252 or Latin-1"
        line = raw.count(b"\n", 0, offset) + 1
        raise SourceError(f"{what}; save the file as UTF-8", f"line {line}") from error


def _is_western(raw: bytes) -> bool:
    """Whether the bytes above ASCII are letters of Western Europe, and mostly between others."""
    try:
        letters = [c for c in raw.decode("cp1252") if ord(c) > 127]
    except UnicodeDecodeError:
        return False
    return sum(c.isalpha() or c in "€„“”‘’–—…«»§°" for c in letters) > len(letters) // 2


def data_files(path: Path, suffixes: Sequence[str]) -> list[DataFile]:
    """The file at a path, or those of a folder in the order of their names, all of one kind.

    Args:
        suffixes: Of the files that may be given.

    Raises:
        SourceError: There is none, or it is not of these kinds.
    """
    folder, split = folder_and_split(path)
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        raise SourceError("no such file; a hub data set is written hf:owner/name") from None
    except (OSError, ValueError) as error:  # a name too long, no permission, a null byte
        raise SourceError(f"cannot be opened ({reason(error)})") from error
    if stat.S_ISDIR(mode):
        return _shards(folder, split, suffixes)
    if other := kind_of_file(mode):
        raise SourceError(f"is {other}, not a file or a folder; save what it gives in a file")
    file = DataFile.at(path)
    if file.suffix not in suffixes:
        raise SourceError(f"{_misfit(file)}; allowed are {_allowed(suffixes)}")
    return [file]


def folder_and_split(path: Path) -> tuple[Path, str]:
    """A path of the form FOLDER:SPLIT in its parts; any other path, and no split."""
    before, colon, split = str(path).rpartition(":")
    try:
        if colon and split and not path.exists() and Path(before).is_dir():
            return Path(before), split
    except (OSError, ValueError):
        pass
    return path, ""


def _allowed(suffixes: Sequence[str]) -> str:
    return f"{' '.join(suffixes)}, each also with {' '.join(PACKED)}, and a folder of such files"


def _misfit(file: DataFile) -> str:
    if file.suffix in (".txt", ".npy", ".md"):
        return f"a {file.suffix} file cannot hold labels"
    if file.suffix == ".conll":
        return f"a {file.suffix} file holds tagged words, which are for a token classifier only"
    return f"unknown kind of file {one_line(file.path.suffix, 30)!r}"


def _shards(folder: Path, split: str, suffixes: Sequence[str]) -> list[DataFile]:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise SourceError(f"cannot be opened ({reason(error)})") from error
    names = [n for n in names if not n.startswith((".", "_")) and n not in NO_RECORDS]
    files = [DataFile.at(folder / name, name) for name in names]
    files = [file for file in files if file.suffix in suffixes]
    # Beside records a page is about them, and a README always is.
    pages = {file.shard for file in files if file.suffix == ".md"}
    if len(pages) < len(files) or all(name.upper().startswith("README") for name in pages):
        files = [file for file in files if file.shard not in pages]
    splits = {_split_of(file.shard) for file in files}
    if split:
        files = [file for file in files if _split_of(file.shard) == split]
    elif len(splits) > 1 and splits != {""}:
        known = ", ".join(sorted(splits - {""}))
        raise SourceError(
            f"is a folder with files of several splits ({known}); give one file, or FOLDER:SPLIT "
            f"such as {one_line(folder.name, 60)}:{min(splits - {''})}"
        )
    if not files:
        which = f" of the split {one_line(split, 30)!r}" if split else ""
        raise SourceError(
            f"is a folder without a file of records{which}; allowed are {_allowed(suffixes)}"
        )
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise SourceError(
            f"is a folder with files of several kinds ({' '.join(kinds)}); give a folder of one "
            "kind, or one file"
        )
    return files


def _split_of(name: str) -> str:
    """The split that a shard's name begins with, such as train-00000-of-00002.parquet."""
    start = name.split(".")[0].split("-")[0].split("_")[0].lower()
    return start if start in SPLIT_NAMES else ""
