"""What a card shows of how a model is used: the lines that load it and do what it is for."""

import html
import inspect
import math
import re
from typing import Any, TypeGuard

from checkpoints.catalogue import CONFIG, Description
from checkpoints.datasets import SEQUENCES
from checkpoints.table import class_of
from checkpoints.tasks import GUIDED
from zoo.errors import UserError

ENVIRONMENT = re.compile(r"[\w./-]{1,96}", re.ASCII)  # a name in Gymnasium's registry
EXACT = ("density", "likelihood", "score")  # protocols whose models are shown with their density


def use(described: Description, model: str) -> str:
    """The lines that load the model and do what it is for: shown on the card, and run by the tests."""
    lines = {
        "policy": _use_of_policy,
        "team": _use_of_team,
        "classifier": _use_of_classifier,
        "sequences": _use_of_sequences,
        "text": _use_of_text,
        "series": _use_of_series,
    }
    return lines.get(described.task, _use_of_sampler)(described, model)


def _use_of_sequences(described: Description, model: str) -> str:
    name = described.data.get("arguments", {}).get("name")
    known = "".join(re.findall(r"\w", str(described.arguments["alphabet"]), re.ASCII))
    source = SEQUENCES[name].example if name in [*SEQUENCES] else known[:5]
    python = [f'model = load("{model}")', f'print(model.text(model.sample(1, source=["{source}"], beams=4)))']
    return _blocks([f'lightning-zoo sample {model} --source "{source}"'], python, "")


def _use_of_text(described: Description, model: str) -> str:
    known = "".join(re.findall(r"\w", str(described.arguments["alphabet"]), re.ASCII))
    prefix = known[:1] if described.data.get("arguments", {}).get("path") else "def "
    python = [
        f'model = load("{model}")',
        "generator = torch.Generator().manual_seed(0)",
        f'print(model.text(model.sample(1, generator=generator, prefix="{prefix}"))[0])',
    ]
    return _blocks([f'lightning-zoo sample {model} --prefix "{prefix}" --seed 0'], python)


def _use_of_series(described: Description, model: str) -> str:
    steps = int(_shape(described)[1])
    python = [
        f'model = load("{model}")',
        f"past = model.sample(1)[:, :, :{steps // 2}]  # or yours, on the scale of the data, [-1, 1]",
        f"future = model.sample(200, prefix=past.expand(200, -1, -1, -1))[:, :, {steps // 2}:]",
    ]
    return _blocks([f"lightning-zoo figure forecast {model} --output forecast.png"], python, "")


def _use_of_team(described: Description, model: str) -> str:
    environment = described.data.get("arguments", {}).get("environment")
    agents = [int(size) for size in described.arguments["observation_sizes"]]
    video = "" if str(environment).startswith("matrix/") else " --video team.mp4"
    python = [
        f'team = load("{model}")',
        "team.reset(1)  # before each episode",
        f"actions = team.act(torch.zeros({len(agents)}, {max(agents)}))  # one for each agent, from what it observes",
    ]
    return _blocks([f"lightning-zoo rollout {model} --episodes 10 --seed 0{video}"], python)


def _use_of_sampler(described: Description, model: str) -> str:
    kind: Any = class_of(described.model)
    images = described.task == "images"
    options = inspect.signature(kind.sample).parameters
    columns = described.arguments.get("num_classes") or []
    columns = [columns] if isinstance(columns, int) else columns
    guided = "guidance_scale" in options and described.arguments.get("null_label")
    flags = f" --labels {_asked(described, columns)}" * bool(columns) + " --guidance-scale 2" * bool(guided)
    count = 64 if images else 2000
    what = "images" if images else "points"
    shape = ", ".join(str(int(size)) for size in _shape(described))
    file = "samples.png" if images or shape == "2" else "samples.csv"
    bash = [f"lightning-zoo sample {model} --num-samples {count} --seed 0{flags} --output {file}"]
    python = [f'model = load("{model}")']
    given = "generator=torch.Generator().manual_seed(0)"
    if columns:
        python.append(f"labels = torch.tensor([{[0] * len(columns) if len(columns) > 1 else 0}] * 16)")
        given = "labels=labels" + ", guidance_scale=2.0" * bool(guided)
    python.append(f"{what} = model.sample(16, {given})  # (16, {shape})" + " in [-1, 1]" * images)
    if described.protocol in EXACT and hasattr(kind, "log_likelihood"):
        if shape == "2":
            bash.append(f"lightning-zoo density {model} --output density.png")
        python.append(f"nats = model.log_likelihood({what}{', labels=labels' * bool(columns)})  # (16,)")
    return _blocks(bash, python)


def _use_of_classifier(described: Description, model: str) -> str:
    kind: Any = class_of(described.model)
    shape = ", ".join(str(int(size)) for size in _shape(described))
    python = [f'model = load("{model}")']
    if "t" not in inspect.signature(kind.forward).parameters:
        python.append(f"probabilities = model(torch.zeros(1, {shape})).softmax(dim=1)  # of images in [-1, 1]")
        return _blocks([], python)
    options = f"--classifier {model} --labels 7 --guidance-scale 3 --output sevens.png"
    guided = GUIDED.get(str(described.data.get("class")))
    guide = [f"lightning-zoo sample {guided} {options}"] if guided else []
    python.append(f"noised, t = torch.zeros(1, {shape}), torch.tensor([300])")
    python.append("probabilities = model(noised, t).softmax(dim=1)")
    return _blocks(guide, python)


def _use_of_policy(described: Description, model: str) -> str:
    arguments = described.data.get("arguments", {})
    environment, options = arguments.get("environment"), arguments.get("environment_arguments") or {}
    if not isinstance(environment, str) or not ENVIRONMENT.fullmatch(environment):
        raise UserError(f"{described.folder / CONFIG}: {environment!r:.50} cannot be the name of an environment")
    given = "".join(f", {key}={value}" for key, value in options.items() if key.isidentifier() and is_number(value))
    bash = [f"lightning-zoo rollout {model} --episodes 10 --seed 0 --video policy.mp4"]
    python = [
        f'policy = load("{model}")',
        f'env = gym.make("{environment}"{given})',
        "observation, _ = env.reset(seed=0)",
        "observation, reward, terminated, truncated, _ = env.step(policy.predict(observation))",
    ]
    registers = "import datamodules.experience.environments  # registers MinAtar\n" * environment.startswith("MinAtar/")
    return _blocks(bash, python, f"import gymnasium as gym\n\n{registers}")


def _blocks(bash: list[str], python: list[str], imports: str = "import torch\n\n") -> str:
    shell = "```bash\n" + "\n".join(bash) + "\n```\n\n" if bash else ""
    return shell + f"```python\n{imports}from checkpoints import load\n\n" + "\n".join(python) + "\n```"


def _shape(described: Description) -> list[Any]:
    keys = ("shape", "image_shape", "observation_shape")
    return next((described.arguments[key] for key in keys if key in described.arguments), [])


def _asked(described: Description, columns: list[int]) -> str:
    """Example labels: the first name of each label column, or a number."""
    names = described.data.get("label_names")
    if names and all(re.fullmatch(r"[\w-]+", str(column[0])) for column in names):  # a word of the command line
        return ",".join(plain(column[0]) for column in names)
    return ",".join(str(min(7, count - 1)) for count in columns)


def plain(value: object) -> str:
    """A value on one line, without what Markdown, HTML or a terminal would act upon."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(value).split()))
    return html.escape(text, quote=False).replace("`", "'").replace("|", "&#124;").replace("](", "] (")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a file is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
