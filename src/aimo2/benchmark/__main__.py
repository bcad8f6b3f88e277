"""`python -m aimo2.benchmark` is `aimo2 benchmark`."""

from aimo2.cli.benchmark import main

if __name__ == "__main__":
    main()
