"""One module for each subcommand of scripts/bench; each has `main(argv)`."""
