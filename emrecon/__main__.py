"""`python -m emrecon` is the command `emrecon`."""

from emrecon.cli.main import main

if __name__ == "__main__":
    main()
