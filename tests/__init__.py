"""The tests; they mirror the tree."""

import os

# Tiny networks gain nothing from threads, and threads that wait for each other lose much on a busy machine. Said before
# PyTorch is imported, and to every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
