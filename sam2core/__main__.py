"""``python -m sam2core`` is the command ``sam2core``."""

from registry.cli import main

if __name__ == "__main__":
    main()
