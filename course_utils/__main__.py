"""The command line of the toolbox: ``python -m course_utils doctor``."""

import sys

USAGE = "usage: python -m course_utils doctor     looks at this machine and says what is wrong and what to do"


def main(words: list[str]) -> int:
    """Run the command; return the exit status: 0 all well, 1 a fault, 2 an unknown command."""
    if words == ["doctor"]:
        from .doctor import doctor

        return doctor()
    print(USAGE, file=sys.stdout if words in (["-h"], ["--help"], ["help"]) else sys.stderr)
    return 0 if words in (["-h"], ["--help"], ["help"]) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
