"""Build steps of the site: the notebook as a page, the model cards beside the pages, links in docstrings."""

import json
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

REPOSITORY = Path(__file__).parents[1]


class PlainSections(griffe.Extension):
    """Headings of docstrings in the words that griffe knows: `Examples:`, and `Args:` without a remark."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^( *)(Args|Returns) \(.*\):$", r"\1\2:", text, flags=re.MULTILINE)


def on_files(files, config):
    """Add the notebook as a page, and the model cards, which are outside of the folder of the pages."""
    page = notebook_page(REPOSITORY / "docs" / "quickstart.ipynb")
    files.append(File.generated(config, "quickstart.md", content=page))
    for path in sorted((REPOSITORY / "model_cards").glob("*.*")):
        files.append(File.generated(config, f"model_cards/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, **_):
    """Turn links that work in the repository into links of the site."""
    return markdown.replace("](../model_cards/", "](model_cards/").replace("](quickstart.ipynb)", "](quickstart.md)")


def on_page_content(html, **_):
    """Turn references in docstrings, such as [`Feature`], into links to the headings of the page."""
    headings = {anchor.rsplit(".")[-1]: anchor for anchor in re.findall(r'id="(hf_rec\.[\w.]+)"', html)}

    def link(match):
        name = match[1]
        return f'<a href="#{headings[name]}"><code>{name}</code></a>' if name in headings else f"<code>{name}</code>"

    return re.sub(r"\[<code>(\w+)</code>\]", link, html)


def notebook_page(path: Path) -> str:
    """The cells of a notebook as Markdown, with a link to the notebook below the title."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    blocks = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    ]
    return "\n\n".join([blocks[0], f"[Download the notebook](./{path.name})", *blocks[1:]])
