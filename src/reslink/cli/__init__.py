"""The command line. Heavy packages are imported only when a command runs."""
