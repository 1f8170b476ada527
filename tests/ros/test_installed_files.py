"""Files of the packages are found in a checkout and in the install layouts of colcon and pip."""

from pathlib import Path

import pytest

from lidar_completion_ros.installed_files import config_file, launch_file, model_folder, model_roots

SITE = "lib/python3.12/site-packages"


@pytest.mark.parametrize(
    "prefixes", [("install", "install"), ("install/lidar_completion_ros", "install/lidar_completion")]
)
def test_models_are_found_in_merged_and_in_isolated_installs(prefixes, tmp_path):
    ros, core = (tmp_path / prefix for prefix in prefixes)
    (core / "share/lidar_completion/models/edge").mkdir(parents=True)
    roots = model_roots(
        ros / SITE / "lidar_completion_ros/installed_files.py", core / SITE / "lidar_completion/__init__.py"
    )
    found = [root / "models/edge" for root in roots if (root / "models/edge").is_dir()]
    assert set(found) == {core / "share/lidar_completion/models/edge"}


def test_shipped_model_is_found_by_name_and_is_the_default():
    assert model_folder("edge") == model_folder("")
    assert (model_folder("") / "model.json").is_file()


def test_path_is_used_as_it_is():
    assert model_folder("/no/such/model") == Path("/no/such/model")


def test_config_and_launch_files_are_found():
    assert config_file("complete.param.yaml").is_file()
    assert launch_file("complete.launch.py").is_file()
    with pytest.raises(FileNotFoundError, match=r"nothing.yaml: not in the folder config"):
        config_file("nothing.yaml")
