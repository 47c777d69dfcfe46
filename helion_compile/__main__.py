# SPDX-License-Identifier: Apache-2.0
"""``python -m helion_compile COMMAND``, installed as ``helion-compile COMMAND`` too."""

from helion_compile.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
