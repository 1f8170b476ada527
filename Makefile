# Every target sets up what it needs. PYTHON: 3.11 or 3.12. BAG: any rosbag2 with a PointCloud2 topic.
FITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
PYTHON ?= $(shell for each in python3 python3.12 python3.11; do $$each $(FITS) 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BAG ?= samples/street
MODEL ?= models/edge
RATE ?= 0
POSES ?=
# Test processes side by side: one a core, at most four, as each compiles loops and starts nodes of its own.
JOBS ?= $(shell cores=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? cores : 4)))

.PHONY: setup demo test smoke test-all bench images-check lint clean

setup: $(READY)

# Compiled loops are cached beside the sources: otherwise every process that needs them first compiles its own.
# Debian and Ubuntu keep venv in a package of its own, which is installed where it is missing and may be.
$(READY): constraints.txt requirements-dev.txt ros2_ws/src/lidar_completion/setup.py ros2_ws/src/lidar_completion_ros/setup.py ros2_ws/src/lidar_completion_evaluation/setup.py synthetic/pyproject.toml training/pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12: apt-get install python3, or set PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) $(FITS) || { echo "$(PYTHON) is no Python 3.11 or 3.12; set PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  test "$$(id -u)" = 0 && apt-get update -q && apt-get install -q -y python3-venv; } || { \
	  sudo -n true && sudo apt-get update -q && sudo apt-get install -q -y python3-venv; } || { \
	  echo "venv is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt -e ros2_ws/src/lidar_completion
	$(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt -e "ros2_ws/src/lidar_completion_ros[ros]" -e synthetic -e "ros2_ws/src/lidar_completion_evaluation[odometry,view]" -e training
	$(BIN)/python -m pip install -q -c constraints.txt -r requirements-dev.txt
	$(BIN)/python -m lidar_completion.compile_loops
	$(BIN)/python -c 'from lidar_completion_synthetic import training_pair; training_pair(0, "mix", recipe="varied")'
	@touch $@

demo: $(READY)
	$(BIN)/python demo/run.py --bag $(BAG) --model $(MODEL) --rate $(RATE) $(if $(POSES),--poses $(POSES)) --output demo_output

# One thread each: on cores that others use, threads of PyTorch and BLAS wait for each other by spinning. tests/conftest.py
# decides the order of the files.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Training as a user starts it: the whole chain of recipes/smoke, a run that is killed, two processes beside one.
smoke: $(READY)
	$(BIN)/python -m pytest -m slow tests/integration/test_smoke_training.py tests/training/test_trainer.py tests/training/test_resume.py

test-all: $(READY)
	$(BIN)/python -m pytest -m ""

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

# Builds the images without Docker and runs that for CPUs; needs root and Debian's buildah, podman and mmdebstrap. IMAGES: its options.
images-check:
	$(PYTHON) docker/images_check.py $(IMAGES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo_output
