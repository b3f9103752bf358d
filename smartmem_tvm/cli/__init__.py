"""The command line ``smartmem``: one file per command."""
