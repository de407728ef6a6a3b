"""Which exercises of the learner copies are done."""

from helpers import errors
from helpers.lesson import progress


def main() -> None:
    print(progress.table())


if __name__ == "__main__":
    errors.run(main)
