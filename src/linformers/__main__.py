"""``python -m linformers``: the same command line, for launchers such as torchrun."""

from linformers.cli.main import main

if __name__ == "__main__":
    main()
