"""`python -m definable` is the `definable` command."""

from definable.cli import main

if __name__ == "__main__":
    main()
