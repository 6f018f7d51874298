"""What all commands of `zoo` share: registration, flags, arguments, usage errors.

A module of commands decorates its functions with `command`; `zoo.__main__` imports it.

Source: absl.flags for the flags.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from absl import flags

COMMANDS = {}
STREAMS = ("appearance", "motion")

# Flags of several commands.
MODEL = ("string", None, "folder of a trained model, such as RUN/best")
TRACKS = ("string", "proposals", "what a detector follows: proposals, reg or regcls")
STRIDE = ("integer", 1, "a detector looks at every so many frames")
FLOW = (
    "string",
    None,
    "optical flow for networks that see it: a folder that zoo flow has written or with "
    "u/ and v/, or tvl1, dis or farneback to compute it",
)
# Of a prediction by a server.
SERVER = {
    "server": ("string", None, "ask a server: host:8500, or http://host:8501 (REST)"),
    "version": ("integer", None, "of --server: number of a version"),
    "label": ("string", None, "of --server: label of a version, such as stable"),
    "signature": ("string", None, "of --server: serving_default, or jpeg by REST"),
    "take": ("integer", None, "of --server: send so many equally spaced frames only"),
    "window": ("integer", None, "of --server: an answer for every so many frames"),
    "size": ("integer", None, "of --server: shrink to this shorter side, flow with it"),
    "timeout": ("float", 60.0, "of --server: seconds for an answer"),
    "ca": ("string", None, "of --server: encrypt; certificates to trust, or system"),
}
FLOW_OR_LAYER = (*FLOW[:2], f"{FLOW[2]}; or layer, which is TV-L1 inside the network")
DATA = {
    "data": (
        "string",
        None,
        "folder <class>/<video> or in YUP++'s layout, or a list file",
    ),
    "train_fraction": (
        "float",
        None,
        "split --data at random into this share for training and the rest for testing",
    ),
    "split_seed": ("integer", 1, "number of the random split"),
}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command: what it runs, its arguments as shown, and its flags (absl).

    Attributes:
        run: function of (flags, arguments). arguments: as the usage line shows them.
        kinds: {flag: (kind, default, help)}, kind as in absl's DEFINE_<kind>.
    """

    run: Callable
    arguments: str
    kinds: dict

    def flags(self):
        """Fresh absl flags, which may stand before and after the arguments."""
        values = flags.FlagValues()
        values.set_gnu_getopt(True)
        for flag, (kind, default, text) in self.kinds.items():
            define = getattr(flags, f"DEFINE_{kind}")
            define(flag, default, text, flag_values=values)
        return values


def command(name, arguments="", /, **kinds):
    """Registers a function as the command `name`; see `Command` for the rest."""

    def decorate(function):
        debug = ("boolean", False, "on an error, show where it came from")
        COMMANDS[name] = Command(function, arguments, {**kinds, "debug": debug})
        return function

    return decorate


class Usage(ValueError):
    """A command line that cannot be run; the message says what to type (absl)."""


def help_of(name):
    """The usage of a command and its flags, as text (absl)."""
    entry = find(name)
    lines = [" ".join(f"usage: zoo {name} {entry.arguments} [--flags]".split())]
    lines += ["", entry.run.__doc__, "", "flags:"]
    for flag, (_, default, text) in entry.kinds.items():
        shown = f" (default {default})" if default not in (None, [], False) else ""
        lines.append(f"  --{flag:15} {text}{shown}")
    return "\n".join(lines)


def parse(entry, name, argv):
    """(flags, arguments) of a command line (absl)."""
    options = entry.flags()
    try:
        return options, options([name, *map(_underscored, argv)])[1:]
    except flags.Error as error:
        raise Usage(f"{error}; `zoo {name} --help` lists the flags.") from error


def _underscored(word):
    """--some-flag=a-b as --some_flag=a-b, which is what it's called here."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}"


def find(name):
    """The `Command` of a name (absl).

    Raises:
        Usage: there is none; all are named.
    """
    if name not in COMMANDS:
        raise Usage(f"Unknown command {name!r}; there are {', '.join(COMMANDS)}.")
    return COMMANDS[name]


def at_most(count, arguments):
    """The arguments, or a `Usage` error if there are more (absl)."""
    if len(arguments) > count:
        raise Usage(f"Too many arguments: {' '.join(map(repr, arguments[count:]))}.")
    return arguments


def one(what, arguments):
    """The only argument, or a `Usage` error that says what it is (absl)."""
    if not arguments:
        raise Usage(f"This command needs {what}.")
    return at_most(1, arguments)[0]


def require(options, *names):
    """A usage error for flags that were not given (absl)."""
    missing = [f"--{name}" for name in names if getattr(options, name) is None]
    if missing:
        raise Usage(f"This command needs {' and '.join(missing)}.")


def refuse(options, *names, of):
    """A usage error for flags that would change nothing (absl)."""
    given = [f"--{name}" for name in names if options[name].present]
    if given:
        raise Usage(f"{of} makes no use of {' and '.join(given)}; leave it out.")


def model_folder(path):
    """`path`, unless it is the folder of a training, in which models lie (ours)."""
    from zoo.weights.folder import RECORD

    for model in (Path(path) / "best", Path(path) / "last"):
        if (model / RECORD).is_file() and not (Path(path) / RECORD).is_file():
            raise Usage(f"{path} is the folder of a training; did you mean {model}?")
    return path


def videos_at(path):
    """The `VideoList` of a folder or of a list file (thesis 7.4, layout)."""
    from zoo.datasets import VideoList

    is_list = Path(path).is_file()
    return VideoList.from_list(path) if is_list else VideoList.from_folder(path)


def split(options):
    """(training, test) of --data; (everything, None) without --train_fraction (7.4.2).

    Args:
        options: flags of a command that has `DATA`.
    """
    videos = videos_at(options.data)
    if options.train_fraction is None:
        return videos, None
    return videos.split(options.train_fraction, options.split_seed)


def weights(text):
    """A name or path, or a dict of them from "appearance=...,motion=..." (4.3.5)."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(stream in STREAMS and equals for stream, equals, _ in parts):
        return text
    return {stream: value for stream, _, value in parts}


@contextlib.contextmanager
def without_trace():
    """What a layer refuses in its own words, not in Keras' trace (ours)."""
    try:
        yield
    except ValueError as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        if not said[0].startswith("Exception encountered when calling"):
            raise
        raise ValueError(re.sub(r"\x1b\[\d*m", "", said[1])) from error
