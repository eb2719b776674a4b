"""``python -m harness`` is ``lorabench``."""

from harness.cli import main

if __name__ == "__main__":
    main()
