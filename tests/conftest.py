"""Settings all tests share."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two pools of threads on a busy machine crawl
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime keeps a diary for its maker unless told not to

settings.register_profile("shared-machine", deadline=None)  # a busy neighbour is no failure
settings.load_profile("shared-machine")
