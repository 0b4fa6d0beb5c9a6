"""The command `emrecon`, also as `python -m emrecon`: it loads what it needs, and then runs."""

import sys


def main() -> None:
    """Run the command; whoever stops it while it loads gets the same line and exit code as later."""
    try:
        from emrecon.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("emrecon: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
