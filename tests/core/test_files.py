"""Files are replaced completely or not at all."""

import pytest

from lidar_completion.files import atomic_write


@pytest.mark.parametrize("durable", [False, True])
def test_replaces_a_file(tmp_path, durable):
    path = tmp_path / "new" / "card.json"
    for text in ("first", "second"):
        with atomic_write(path, durable) as partial:
            assert partial.suffix == ".json"
            partial.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), atomic_write(path) as partial:
        fail(partial)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
