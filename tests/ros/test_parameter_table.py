"""The documented parameter table is the generated one."""

from pathlib import Path

from lidar_completion_ros.parameters import markdown_table

PAGE = Path(__file__).parents[2] / "docs/parameters.md"


def test_parameter_table_is_current():
    table = PAGE.read_text().split("<!-- parameters: begin -->\n")[1].split("\n<!-- parameters: end -->")[0]
    assert table == markdown_table(), (
        "paste the output of python -m lidar_completion_ros.parameters into docs/parameters.md"
    )
