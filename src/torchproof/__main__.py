"""`python -m torchproof`, which is also what torchrun starts."""

from torchproof.cli.main import main

if __name__ == "__main__":
    main()
