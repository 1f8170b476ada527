# Every target sets up what it needs. PYTHON: 3.11 or 3.12. BAG: any rosbag2 with a PointCloud2 topic.
PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BAG ?= samples/street
MODEL ?= models/edge
RATE ?= 0
POSES ?=

.PHONY: setup demo test test-all bench lint clean

setup: $(READY)

# A Debian or Ubuntu without python3-venv can still make an environment with virtualenv, hence the second try.
$(READY): constraints.txt ros2_ws/src/lidar_completion/setup.py ros2_ws/src/lidar_completion_ros/setup.py training/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "needs Python 3.11 or 3.12, found $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install -y python3-venv"; exit 1; }
	$(BIN)/python -m pip install -q --upgrade -c constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt -e ros2_ws/src/lidar_completion
	$(BIN)/python -m pip install -q --no-build-isolation -c constraints.txt -e "ros2_ws/src/lidar_completion_ros[ros]" -e training
	$(BIN)/python -m pip install -q -c constraints.txt -r requirements-dev.txt
	@touch $@

demo: $(READY)
	$(BIN)/python demo/run.py --bag $(BAG) --model $(MODEL) --rate $(RATE) $(if $(POSES),--poses $(POSES)) --output demo_output

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest -m "" 

bench: $(READY)
	$(BIN)/python benchmarks/run_all.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo_output
