"""``python -m batchvision``: the same as the command."""

from batchvision.cli import main

if __name__ == "__main__":
    main()
