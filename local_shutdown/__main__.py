"""`python -m local_shutdown`: the same as the command `local-shutdown`."""

from local_shutdown.cli import main

if __name__ == "__main__":
    main(prog_name="local-shutdown")
