"""`python -m leakycli`."""

from leakycli.cli import main

if __name__ == "__main__":
    main()
