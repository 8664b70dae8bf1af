"""Pages of the site that do not lie in docs/, and links that hold in the repository as well as in the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "examples/*.ipynb",
    "pretrained/*",
    "tests/sample/README.md",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ at their paths, and README.md as the first page."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        if path.suffix in (".md", ".jpg", ".ipynb", ""):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with its links made those of the site, in which docs/ is the root."""
    if page.file.generated_by is None:  # a page of docs/
        return markdown.replace("](../", "](")
    return markdown.replace("](docs/", "](").replace("](../docs/", "](../")
