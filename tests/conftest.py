"""Settings all tests share."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two pools of threads on a busy machine crawl

settings.register_profile("shared-machine", deadline=None)  # a busy neighbour is no failure
settings.load_profile("shared-machine")
