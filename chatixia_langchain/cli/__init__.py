"""The command line: `main` dispatches, one module per subcommand.

A subcommand module has `HELP`, `add_arguments(parser)` and `run(args) -> int` (the exit code). It is imported only when
its subcommand is used, so that the base install starts fast and a missing extra hurts only the commands that need it.
"""
