"""The command line: `torchproof COMMAND --help`."""
