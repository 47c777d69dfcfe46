import sys
from pathlib import Path

# Pytest's importlib mode puts no test folder on the path; the helpers beside this file are imported by name.
sys.path.append(str(Path(__file__).parent))
