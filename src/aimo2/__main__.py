"""`python -m aimo2` is the `aimo2` command."""

from aimo2.cli import main

if __name__ == "__main__":
    main()
