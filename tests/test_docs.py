"""What README and docs cite exists: test files, test functions, and documentation pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEST_NAMES = {
    name for path in ROOT.glob("**/test_*.py") for name in (path.name, *re.findall(r"def (test_\w+)", path.read_text()))
}
PENDING: set[str] = set()


def cited_tests(text: str) -> set[str]:
    """test_... names and tests/... paths of a page; an ellipsis after a name abbreviates it."""
    return set(re.findall(r"\btest_\w+(?:\.py|…)?", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cited_tests_exist(page):
    missing = {
        name
        for name in cited_tests(page.read_text())
        if not any(known.startswith(name[:-1]) if name.endswith("…") else known == name for known in TEST_NAMES)
        and name != "test_pair"  # a function of lidar_completion_synthetic
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cited_paths_exist(page):
    paths = re.findall(r"\b(?:tests|benchmarks|docs)/[\w/.-]*\w", page.read_text())
    assert not {path for path in paths if not (ROOT / path).exists()} - PENDING


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_exist(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert not {link for link in links if not (page.parent / link).exists()} - PENDING


def test_every_case_of_the_node_page_has_a_test():
    """The rows of tables whose last column is `test`."""
    rows, collecting = [], False
    for line in (ROOT / "docs" / "node.md").read_text().splitlines():
        if line.endswith("| test |"):
            collecting = True
        elif not line.startswith("|"):
            collecting = False
        elif collecting and not line.startswith("|---"):
            rows.append(line)
    assert len(rows) > 40
    assert [row for row in rows if not cited_tests(row.split("|")[-2])] == []
