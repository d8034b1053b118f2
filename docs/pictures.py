"""Make the pictures of the first page from a run of the demo: the terminal, and the report.

    python docs/pictures.py --work FOLDER

Needs chromium. What FOLDER has of an earlier call is not made again.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent / "pictures"
WIDTH, COLUMNS = 1100, 118
SHOWN_ROUNDS = 3
# Of the claims, in the order of preference where one word is part of another.
COLOURS = {": not met": "red", ": met": "green"}

# As that of rich, but without a font from elsewhere.
FRAME = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img"
 aria-label="What unlearner demo icu prints">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
<rect width="{width}" height="{height}" rx="8" fill="#1f2430" />
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path(".bench/pictures"))
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    printed = work / "terminal.txt"
    if not printed.exists():
        command = [sys.executable, "-m", "unlearner", "demo", "icu", "--output", "demo-icu"]
        run = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
        printed.write_text(run.stdout, encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    picture = terminal_picture(printed.read_text(encoding="utf-8"))
    (PICTURES / "terminal.svg").write_text(picture, encoding="utf-8")
    page = work / "demo-icu" / "report.html"
    screenshot(page, PICTURES / "report.png", WIDTH, 800)
    print(PICTURES)


def terminal_picture(printed: str) -> str:
    """What a command printed as an SVG, without the rounds between the first and the last."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), highlight=False)
    console.print(Text("$ unlearner demo icu", style="bold"))
    for line in shortened(printed.splitlines()):
        text = Text(line)
        for word, colour in COLOURS.items():
            if word in line:
                start = line.index(word) + 2
                text.stylize(f"bold {colour}", start, start + len(word) - 2)
                break
        console.print(text)
    svg = console.export_svg(title="unlearner demo icu", code_format=FRAME, unique_id="terminal")
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


def shortened(lines: list[str]) -> list[str]:
    """The lines, of the rounds the first ones and the last."""
    rounds = [place for place, line in enumerate(lines) if line.startswith("  step ")]
    left_out = rounds[SHOWN_ROUNDS:-1]
    if not left_out:
        return lines
    return [*lines[: left_out[0]], "  ...", *lines[left_out[-1] + 1 :]]


def screenshot(page: Path, picture: Path, width: int, height: int) -> None:
    """The top of a page as a PNG of few colours."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"),
            *(f"--window-size={width},{height}", f"--screenshot={picture.resolve()}"),
            page.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    image = Image.open(picture).convert("RGB")
    image.quantize(colors=96, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
