"""``python -m sam2core`` is the command ``sam2core``."""

from sam2core.cli import main

if __name__ == "__main__":
    main()
