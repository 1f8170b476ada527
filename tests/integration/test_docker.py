"""The Docker files, checked without a Docker engine: what they copy, install, run and mount exists."""

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(each for each in DOCKER.glob("Dockerfile.*") if each.suffix != ".dockerignore")


def instructions(path):
    """(instruction, rest) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in joined if line.strip()]


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request):
    return request.param


def test_dockerfiles_exist():
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


def test_copied_paths_exist_and_are_sent_to_the_builder(dockerfile):
    ignore = [line for line in (DOCKER / f"{dockerfile.name}.dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert ignore[0] == "*"
    sent = [line[1:] for line in ignore if line.startswith("!")]
    copied = [shlex.split(rest)[:-1] for name, rest in instructions(dockerfile) if name == "COPY"]
    assert copied
    for source in (each for sources in copied for each in sources):
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent), f"{source} is ignored"


def test_copied_tree_has_the_layout_of_the_repository(dockerfile):
    """The packages contain links to launch files and models in the tree, so its layout must be kept."""
    folders = [shlex.split(rest) for name, rest in instructions(dockerfile) if name == "COPY" and "/tmp" not in rest]
    for source, target in (each for each in folders if (ROOT / each[0]).is_dir()):
        assert source == target
    for link in (ROOT / "ros2_ws" / "src").glob("*/*"):
        if link.is_symlink():
            relative = str(link.resolve().relative_to(ROOT))
            assert any(source.split("/")[0] == relative.split("/")[0] for source, _ in folders), relative


def test_pip_installs_pinned_versions_only(dockerfile):
    pinned = {re.split(r"[=\[ ]", line)[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = [line for line in (DOCKER / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [name for name in wanted if name.lower() not in pinned] == []
    run = " && ".join(rest for name, rest in instructions(dockerfile) if name == "RUN")
    commands = [shlex.split(part) for part in re.split(r"&&", run) if "pip install" in part]
    assert commands
    for command in commands:
        plain = [word for word in command[2:] if word[0] not in "-/$"]
        assert "-c" in command or all("==" in word for word in plain), command
        assert all("==" in word or word.lower() in pinned for word in plain), command
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    assert torch.split()[0] in run


def test_image_has_a_pinned_base_health_check_and_user(dockerfile):
    steps = instructions(dockerfile)
    base = next(rest for name, rest in steps if name == "ARG").removeprefix("BASE=")
    assert next(rest for name, rest in steps if name == "FROM") == "${BASE}"
    assert "jazzy" in base
    assert not base.endswith("latest")
    user = [position for position, (name, _) in enumerate(steps) if name == "USER"]
    assert steps[user[-1]][1].strip() not in ("root", "0")
    assert all(position < user[0] for position, (name, _) in enumerate(steps) if name == "RUN")
    (health,) = [rest for name, rest in steps if name == "HEALTHCHECK"]
    assert "lidar-completion" in health
    assert "health" in health


def test_images_differ_in_few_lines():
    cpu, cuda = ([line for line in path.read_text().splitlines() if line[:1] != "#"] for path in DOCKERFILES)
    assert len(set(cpu) ^ set(cuda)) <= 9


def test_compose_files_match_images_and_command():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    cuda = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]
    for service in (compose["node"], cuda["node"]):
        assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert set(cuda) == set(compose)
    assert compose["replay"]["image"] == compose["node"]["image"]
    assert cuda["replay"]["image"] == cuda["node"]["image"]
    assert (compose["node"]["ipc"], compose["replay"]["ipc"]) == ("shareable", "service:node")
    assert compose["replay"]["network_mode"] == "service:node"
    words = shlex.split(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", compose["replay"]["command"]))
    assert words[:2] == ["lidar-completion", "bag"]
    mounts = [volume.rsplit(":", 2 if volume.endswith(":ro") else 1)[1] for volume in compose["replay"]["volumes"]]
    assert set(mounts) == {"/bag", "/report"}
    source = (
        ROOT / "ros2_ws/src/lidar_completion_evaluation/lidar_completion_evaluation/replay/command.py"
    ).read_text()
    for option in (word for word in words if word.startswith("--")):
        name = option[2:].replace("-", "_")
        assert re.search(rf"^    {name}: ", source, re.MULTILINE), option


def test_entry_point_is_executable():
    assert (DOCKER / "entrypoint.sh").stat().st_mode & 0o111


def test_images_check_is_skipped_with_the_reason_where_tools_are_missing(tmp_path):
    program = [sys.executable, DOCKER / "images_check.py"]
    found = subprocess.run(program, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert "skipped: buildah, podman, mmdebstrap not found" in found.stdout


def test_images_check_replaces_arguments_that_both_dockerfiles_have(dockerfile):
    declared = {rest.split("=")[0] for name, rest in instructions(dockerfile) if name == "ARG"}
    assert {"BASE", "APT_PACKAGES", "PYPI", "PIP_FIND_LINKS"} <= declared
    source = (DOCKER / "images_check.py").read_text()
    assert all(f'"{name}"' in source for name in declared)
