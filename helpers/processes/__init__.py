"""Child processes that never outlive the notebook, their ports and their folders."""
