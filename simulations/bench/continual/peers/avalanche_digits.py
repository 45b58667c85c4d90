"""Avalanche's strategies on Split-digits, for an environment of their own: nothing of ours is imported here.

`python avalanche_digits.py REQUEST.json ANSWER.json`; the request names a file of arrays and the setting, the answer
holds for each setting, strategy and seed the accuracy on each task after each task.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

SETTINGS, PARTS = ("class", "domain", "task"), ("train", "test")
OPERATORS = ("nms(Tensor dets, Tensor scores, float iou) -> Tensor", "qnms(Tensor dets, Tensor s, float i) -> Tensor")


def main(request_path: str, answer_path: str) -> None:
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    torch.set_num_threads(1)
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:  # a torchvision built for CUDA wants them declared; none of them is used
        try:
            library.define(operator)
        except RuntimeError:
            break
    names, streams = request["strategies"], ("class", "domain")
    answer: dict[str, dict[str, list[Any]]] = {setting: {name: [] for name in names} for setting in SETTINGS}
    for seed in request["seeds"]:
        arrays = np.load(request["arrays"][str(seed)], allow_pickle=False)
        for name in names:
            for stream in streams:
                for setting, rows in matrices(name, seed, stream, arrays, request).items():
                    answer[setting][name].append(rows)
    with open(answer_path, "w", encoding="utf-8") as file:
        json.dump(answer, file)


def matrices(
    name: str, seed: int, stream: str, arrays: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, list[list[float]]]:
    """R of one strategy and seed, a row before learning and one after each task, in every setting a stream serves.

    The class stream serves two: which two digits are in question is told when asking, or it is not.
    """
    from avalanche.benchmarks import nc_benchmark, ni_benchmark  # noqa: PLC0415

    torch.manual_seed(seed)
    np.random.seed(seed)
    tasks = request["tasks"]
    odd = stream == "domain"
    train, test = (
        _dataset(arrays[f"{part}_x"], arrays[f"{part}_y"] % 2 if odd else arrays[f"{part}_y"]) for part in PARTS
    )
    if odd:
        of = [np.flatnonzero(np.isin(arrays["train_y"], classes)).tolist() for classes in tasks]
        benchmark = ni_benchmark(train, test, n_experiences=len(tasks), fixed_exp_assignment=of, seed=seed)
    else:
        order = [digit for classes in tasks for digit in classes]
        benchmark = nc_benchmark(
            train, test, n_experiences=len(tasks), task_labels=False, fixed_class_order=order, seed=seed
        )
    hidden = request["hidden"]
    model = torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2 if odd else 10))
    strategy = _strategy(name, model, request)
    settings = ("domain",) if odd else ("class", "task")
    rows = {setting: [_accuracies(model, arrays, tasks, setting)] for setting in settings}
    for experience in benchmark.train_stream:
        strategy.train(experience, num_workers=0)
        for setting in settings:  # GDumb begins with a new model each time
            rows[setting].append(_accuracies(strategy.model, arrays, tasks, setting))
    return rows


def _strategy(name: str, model: torch.nn.Module, request: Mapping[str, Any]) -> Any:
    from avalanche.training import supervised as s  # noqa: PLC0415
    from avalanche.training.plugins import EvaluationPlugin  # noqa: PLC0415

    common: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=request["learning_rate"]),
        "criterion": torch.nn.CrossEntropyLoss(),
        "train_mb_size": request["batch"],
        "train_epochs": request["epochs"],
        "evaluator": EvaluationPlugin(),
    }
    memory, batch = request["memory"], request["batch"]
    build: dict[str, Callable[[], Any]] = {
        "naive": lambda: s.Naive(**common),
        "EWC": lambda: s.EWC(ewc_lambda=100.0, **common),
        "LwF": lambda: s.LwF(alpha=1.0, temperature=2.0, **common),
        "SI": lambda: s.SynapticIntelligence(si_lambda=1.0, **common),
        "A-GEM": lambda: s.AGEM(patterns_per_exp=memory // 5, sample_size=64, **common),
        "GDumb": lambda: s.GDumb(mem_size=memory, **common),
        "replay": lambda: s.Replay(mem_size=memory, **common),
        "GEM": lambda: s.GEM(patterns_per_exp=memory // 5, memory_strength=0.5, **common),
        "DER++": lambda: s.DER(mem_size=memory, batch_size_mem=batch, alpha=0.5, beta=1.0, **common),
        "ER-ACE": lambda: s.ER_ACE(mem_size=memory, batch_size_mem=batch, **common),
    }
    return build[name]()


def _dataset(x: Any, y: Any) -> Any:
    from torch.utils.data import Dataset  # noqa: PLC0415

    class Digits(Dataset):  # type: ignore[type-arg]  # Avalanche asks for a dataset with targets
        def __init__(self) -> None:
            self.x, self.targets = torch.tensor(x), [int(label) for label in y]

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.x[index], self.targets[index]

    from avalanche.benchmarks.utils import as_classification_dataset  # noqa: PLC0415

    return as_classification_dataset(Digits())


@torch.no_grad()
def _accuracies(model: torch.nn.Module, arrays: Mapping[str, Any], tasks: list[list[int]], setting: str) -> list[float]:
    model.eval()
    logits, digits = model(torch.tensor(arrays["test_x"])).numpy(), arrays["test_y"]
    found = []
    for classes in tasks:
        mine = np.isin(digits, classes)
        if setting == "domain":
            found.append(float((logits[mine].argmax(axis=1) == digits[mine] % 2).mean()))
            continue
        answers = np.array(classes if setting == "task" else range(logits.shape[1]))
        found.append(float((answers[logits[mine][:, answers].argmax(axis=1)] == digits[mine]).mean()))
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
