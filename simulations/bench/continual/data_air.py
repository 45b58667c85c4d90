"""Hourly air and weather of twelve stations in Beijing, 2013 to 2017, as four seasons: drift that nature made.

What is asked: which of four levels PM2.5 has now, from the weather, the hour and the gases. Each season is learned on
its first three years and tested on its last.
"""

import csv
import gzip
import math
from pathlib import Path

import numpy as np
import torch

from learning_core.errors import ConfigError
from simulations.bench.continual.streams import Task

FOLDER = "beijing_air12"
LEVELS = (35.0, 75.0, 150.0)  # micrograms of PM2.5 in a cubic metre: the borders of excellent, good, light, heavy
NUMBERS = ("TEMP", "PRES", "DEWP", "RAIN", "WSPM", "SO2", "NO2", "CO", "O3")
WINDS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")
SEASONS = ("spring", "summer", "autumn", "winter")
ROWS, TEST_ROWS = 1500, 800  # of each season, drawn from all stations


def seasons(data: Path, seed: int) -> list[Task]:
    """Four tasks with one head of four answers; numbers are standardised by what the first season shows."""
    values, levels, season, year = _read(data / FOLDER)
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(len(SEASONS)):
        learn = rng.permutation(np.flatnonzero((season == index) & (year < 3)))[:ROWS]
        test = rng.permutation(np.flatnonzero((season == index) & (year == 3)))[:TEST_ROWS]
        parts.append((learn, test))
    first = values[parts[0][0]]
    centre, spread = first.mean(axis=0), first.std(axis=0) + 1e-6
    x, y = torch.tensor((values - centre) / spread, dtype=torch.float32), torch.tensor(levels)
    every = torch.arange(len(LEVELS) + 1)
    return [Task(x[learn], y[learn], x[test], y[test], every) for learn, test in parts]


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, 13], level [N], season 0..3 from March [N] and year of measurement 0..3 from March [N]."""
    files = sorted(folder.glob("PRSA_Data_*.csv.gz"))
    if not files:
        raise ConfigError(f"{folder} holds no PRSA_Data_*.csv.gz; give the folder that holds {FOLDER}/ with --data")
    rows = []
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["wd"] not in WINDS or "NA" in (row["PM2.5"], *(row[name] for name in NUMBERS)):
                    continue
                wind, hour = 2 * math.pi * WINDS.index(row["wd"]) / 16, 2 * math.pi * int(row["hour"]) / 24
                turns = (math.sin(wind), math.cos(wind), math.sin(hour), math.cos(hour))
                months = 12 * (int(row["year"]) - 2013) + int(row["month"]) - 3
                rows.append((*(float(row[name]) for name in NUMBERS), *turns, float(row["PM2.5"]), months))
    table = np.array(rows, np.float64)
    since_march = table[:, -1].astype(np.int64)
    return table[:, :-2], np.digitize(table[:, -2], LEVELS), since_march % 12 // 3, since_march // 12
