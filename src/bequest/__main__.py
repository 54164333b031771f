"""``python -m bequest``: the same as the ``bequest`` command."""

from bequest.cli import main

if __name__ == "__main__":
    main()
