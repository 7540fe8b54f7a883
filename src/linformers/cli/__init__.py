"""The command line: one small file per command, gathered by ``linformers.cli.main``."""
