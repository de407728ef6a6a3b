"""Which exercises of the learner copies are done."""

from helpers.lesson import progress

if __name__ == "__main__":
    print(progress.table())
