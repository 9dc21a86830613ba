"""Every relative link in the committed Markdown leads to a file, and every #fragment to a heading in it."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
FENCE = re.compile(r"^\s*(```|~~~)")


def prose(page: Path) -> list[str]:
    """The lines outside of fenced code."""
    lines, is_code = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if FENCE.match(line):
            is_code = not is_code
        elif not is_code:
            lines.append(line)
    return lines


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make, as code hosts make them."""
    found: dict[str, int] = {}
    for line in prose(page):
        if match := HEADING.match(line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
            if found[slug]:
                found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def broken_links(page: Path) -> list[str]:
    """What is wrong with the links of one page."""
    wrong = []
    # A link inside of `code` is none.
    text = re.sub(r"`[^`\n]*`", "", "\n".join(prose(page)))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page.resolve()
        if not file.exists():
            wrong.append(f"{page}: {target} leads nowhere")
        elif fragment and file.suffix == ".md" and fragment not in anchors(file):
            wrong.append(f"{page}: {target}: there is no such heading")
    return wrong


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z", "--", "*.md"], check=True, capture_output=True, text=True).stdout
    pages = [Path(name) for name in listed.split("\0") if name]
    wrong = [fault for page in pages for fault in broken_links(page)]
    for fault in wrong:
        print(fault)
    print(f"{len(pages)} pages, {len(wrong)} broken links")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
