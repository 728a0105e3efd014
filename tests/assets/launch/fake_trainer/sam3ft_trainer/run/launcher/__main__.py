"""The launcher that follows a script, see `fake_launcher.py`."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[4] / "fake_launcher.py"), run_name="__main__")
