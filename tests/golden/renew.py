"""Keep the golden runs as they are now, and print what is other than before.

python tests/golden/renew.py [NAME...] renews the runs named, and without any name all of them.
"""

import sys
import tempfile
from pathlib import Path

import torch
from golden_files import (
    FINGERPRINT,
    FOLDER,
    PAGES,
    differences,
    fingerprint,
    kept_file,
    make,
    page_digests,
    page_file,
    read,
    write,
    write_page,
)
from golden_runs import RUNS
from golden_world import build_world


def renew(name: str, world: Path) -> int:
    """Carry out a run and keep it; the number of differences."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        new, pages = make(name, Path(folder), world)
    old = read(kept_file(name)) if kept_file(name).exists() else {}
    found = list(differences(old, new, exactly=True))
    print(f"{name}: {len(found)} differences")
    for line in found:
        print(f"  {line}")
    write(kept_file(name), new)
    for digest, text in pages.items():
        if not page_file(digest).exists():
            write_page(digest, text)
    return len(found)


def remove_others() -> None:
    """Remove runs that there are no more, and pages that no run has."""
    files = {path for path in FOLDER.glob("*.json") if path != FINGERPRINT}
    kept = files & {kept_file(name) for name in RUNS}
    pages = {page_file(some) for path in kept for some in page_digests(read(path)).values()}
    for path in (files - kept) | ({*PAGES.glob("*")} - pages):
        path.unlink()


def main(names: list[str]) -> int:
    """0 where nothing was other than before, else 1."""
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(RUNS)}")
        return 2
    torch.set_num_threads(1)
    if FINGERPRINT.exists() and read(FINGERPRINT) != fingerprint() and names:
        print("the machine or a library is not that of the kept runs: renew all of them")
        return 2
    with tempfile.TemporaryDirectory(prefix="golden-world-") as folder:
        build_world(Path(folder))
        changed = [name for name in names or RUNS if renew(name, Path(folder))]
    write(FINGERPRINT, fingerprint())
    remove_others()
    print(f"changed: {', '.join(changed) or 'nothing'}")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
