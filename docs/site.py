"""What the documentation site takes from outside of this folder, as hooks of MkDocs (`hooks:` in mkdocs.yml).

Documents lie where they belong: a plugin's beside the plugin, results beside the benchmarks, notebooks as notebooks.
The site shows them as pages (`page_of`), and links between them lead to pages there and to files here.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/*.md",
    "benchmarks/results/*.md",
    "plugins/README.md",
    "plugins/*/README.md",
    "registry/samples/LICENSES.md",
    "registry/weights/MODEL_CARD.md",
    "registry/weights/TRAINING.md",
)
RENAMED = {
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "security.md",
    "": "index.md",
    "benchmarks": "measured/how.md",
    "benchmarks/README.md": "measured/how.md",
    "benchmarks/optimisations.md": "measured/optimisations.md",
    "benchmarks/results": "measured.md",
    "plugins": "plugins.md",
    "plugins/README.md": "plugins/guide.md",
    "registry/samples/LICENSES.md": "samples.md",
    "registry/weights/MODEL_CARD.md": "model-card.md",
    "registry/weights/TRAINING.md": "model-training.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

_sources: dict[str, str] = {}  # page on the site -> document of the repository
_files: set[str] = set()  # further files that pages link to


def page_of(path: str) -> str | None:
    """Where on the site a document of the repository is shown: a page's address, or None."""
    if path in RENAMED:
        return RENAMED[path]
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        return re.sub(r"\.ipynb$", ".md", inside)
    if found := re.fullmatch(r"plugins/([\w-]+)(?:/README\.md)?", path):
        return f"plugins/{found[1]}.md"
    if found := re.fullmatch(r"benchmarks/results/(\w+\.md)", path):
        return f"measured/{found[1]}"
    return None


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside, and the notebooks as pages beside their files."""
    _sources.clear()
    _files.clear()
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            document = path.relative_to(ROOT).as_posix()
            page = page_of(document)
            assert page is not None, document
            _sources[page] = document
            text = path.read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
            _link_files(document, text, files, config)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        _sources[page] = f"docs/notebooks/{path.name}"
        text, pictures = notebook_page(path)
        files.append(File.generated(config, page, content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    for file in list(files.documentation_pages()):
        if file.src_uri not in _sources:
            _link_files(f"docs/{file.src_uri}", Path(file.abs_src_path).read_text(encoding="utf-8"), files, config)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files of the repository into links to pages and files of the site."""
    here = page.file.src_uri
    document = _sources.get(here, f"docs/{here}")

    def leads(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        found = "" if found == "." else found
        there = page_of(found) or f"files/{found}"
        return match[1] + posixpath.relpath(there, posixpath.dirname(here) or ".") + (match[3] or "") + match[4]

    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(leads, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join(parts) + LINK.sub(leads, markdown[last:])


def _link_files(document: str, text: str, files: Any, config: Any) -> None:
    """Take along the files that a document links to and that are no pages: images, recipes, sources."""
    for _, target, _, _ in LINK.findall(FENCE.sub("", text)):
        found = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        path = ROOT / found
        if re.match(r"[a-z]+:", target) or found in _files or page_of(found) is not None or not path.is_file():
            continue
        _files.add(found)
        files.append(File.generated(config, f"files/{found}", abs_src_path=str(path)))


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by file name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        shown = []
        printed = "".join("".join(output.get("text", ())) for output in cell["outputs"]).rstrip()
        if printed:
            shown.append(f"```text\n{printed}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/jpeg" in data:
                name = f"{path.stem}-{len(pictures)}.jpg"
                pictures[name] = base64.b64decode("".join(data["image/jpeg"]))
                shown.append(f"![What the code above shows]({name})")
            elif "text/plain" in data:
                shown.append(f"```text\n{''.join(data['text/plain'])}\n```")
        if shown:
            parts.append('<div class="output" markdown>\n\n' + "\n\n".join(shown) + "\n\n</div>")
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[The notebook, to run yourself]({path.name}){{ download }}\n{rest}", pictures
