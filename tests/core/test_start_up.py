"""What a new process imports before its first sweep."""

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from lidar_completion.completer import SceneCompleter
SceneCompleter.load(sys.argv[1], device="cpu")
print(*(name for name in ("torch._dynamo", "triton", "onnx") if name in sys.modules))
"""


def test_loading_a_model_imports_no_compiler(tiny_model: Path):
    """torch._dynamo alone takes three seconds and 130 MB."""
    run = subprocess.run([sys.executable, "-c", CODE, str(tiny_model)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
