"""The README's parameter table is the one that the code makes."""

from pathlib import Path

from lidar_completion_ros.parameters import markdown_table

README = Path(__file__).parents[2] / "README.md"


def test_the_parameter_table_is_current():
    table = README.read_text().split("<!-- parameters: begin -->\n")[1].split("\n<!-- parameters: end -->")[0]
    assert table == markdown_table(), "paste the output of python -m lidar_completion_ros.parameters into README.md"
