"""Lists of labelled videos: from a folder tree or from a list file, and their split.

The folder tree is the usual ``<class>/<video>``, or the layout of the YUP++ dynamic
scenes (thesis 7.4): ``camera_stationary/<class>/<video>`` and
``camera_moving/<class>/<video>``, whose videos get the groups "static" and "moving".
Classes are sorted folder names. The random split draws equally many videos of every
class and group (thesis 7.4.2).
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from zoo.datasets.video import VideoError

EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""Endings, in any case, by which a file in a folder tree counts as a video."""
YUP_GROUPS = {"camera_stationary": "static", "camera_moving": "moving"}
"""Folders of the YUP++ layout and the groups they stand for."""


@dataclasses.dataclass(frozen=True)
class VideoList:
    """Videos with their classes, in a fixed order.

    Attributes:
        paths: File of each video.
        labels: Class of each video, a position in ``class_names``.
        class_names: Names of the K classes, at least two.
        groups: Group of each video, such as "static" or "moving"; "" for none.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self):
        sizes = len(self.paths), len(self.labels), len(self.groups)
        if len(set(sizes)) > 1:
            raise ValueError(
                "paths, labels and groups must have one entry per video, got "
                f"{sizes[0]}, {sizes[1]} and {sizes[2]}."
            )

    def __len__(self):
        return len(self.paths)

    @classmethod
    def from_folder(cls, root):
        """Lists a folder tree ``<class>/<video>`` or one in YUP++'s layout.

        Files without one of EXTENSIONS and names starting with a dot are left out.

        Args:
            root: Folder of the class folders, or of ``camera_stationary`` and
                ``camera_moving``.

        Returns:
            A VideoList sorted by group (static, moving), class and file name.

        Raises:
            VideoError: If the folder is missing or empty, a class folder holds no
                video, or there are fewer than two classes.
        """
        root = Path(root)
        if not root.is_dir():
            raise VideoError(f"{root}: no such folder; give one with class folders.")
        rows = []
        for folder, group in _group_folders(root):
            for class_folder in _subfolders(folder):
                rows += [(p, class_folder.name, group) for p in _videos(class_folder)]
        names = sorted({name for _, name, _ in rows})
        _check_classes(root, names)
        return cls._from_rows(rows, names)

    @classmethod
    def from_list(cls, file, root=None, class_names=None):
        """Reads a list file with one video per line: path, label, and maybe a group.

        Fields are parted by commas in a ``.csv`` file and by spaces otherwise; a path
        with either stands in double quotes. Empty lines and lines starting with ``#``
        are left out, and so is a first line ``path,label``. Labels are class names;
        where all are integers they are positions in ``class_names`` if that's given,
        and otherwise their sorted distinct values become the classes.

        Args:
            file: The list, a text file in UTF-8.
            root: Folder that relative paths start from; by default the list's own.
            class_names: Names of the classes in the order of the labels. By default
                the sorted distinct labels of the list.

        Returns:
            A VideoList in the order of the file.

        Raises:
            VideoError: If the list is missing or empty, a line doesn't have two or
                three fields, a video is absent or listed twice, a label isn't in
                ``class_names``, or there are fewer than two classes. The message has
                the line number.
        """
        file = Path(file)
        if not file.is_file():
            raise VideoError(f"{file}: no such list file.")
        root = file.parent if root is None else Path(root)
        entries = list(_entries(file))
        if not entries:
            raise VideoError(f"{file}: lists no video; give lines of path and label.")
        names = _class_names(entries, class_names)
        _check_classes(file, names)
        rows, seen = [], {}
        for line, path, label, group in entries:
            path = root / path
            where = f"{file}, line {line}"
            if path in seen:
                raise VideoError(f"{where}: {path} stands in line {seen[path]} too.")
            if not path.is_file():
                raise VideoError(f"{where}: no such file: {path}.")
            seen[path] = line
            rows.append((path, _name_of(label, names, entries, where), group))
        return cls._from_rows(rows, names)

    @classmethod
    def _from_rows(cls, rows, names):
        """Builds the list from (path, class name, group) and the class names."""
        position = {name: i for i, name in enumerate(names)}
        return cls(
            paths=tuple(str(path) for path, _, _ in rows),
            labels=tuple(position[name] for _, name, _ in rows),
            class_names=tuple(names),
            groups=tuple(group for _, _, group in rows),
        )

    def take(self, positions):
        """Returns the VideoList of the given positions, all class names kept."""
        return VideoList(
            paths=tuple(self.paths[i] for i in positions),
            labels=tuple(self.labels[i] for i in positions),
            class_names=self.class_names,
            groups=tuple(self.groups[i] for i in positions),
        )

    def with_classes(self, names):
        """Returns the same videos with labels counted in other class names.

        Args:
            names: Class names in the order wanted, such as those of a trained model;
                some of them may have no video here.

        Returns:
            A VideoList in the same order, with these class names.

        Raises:
            ValueError: If a class of this list is not among the names.
        """
        names = tuple(names)
        extra = [name for name in self.class_names if name not in names]
        if extra:
            missing = [name for name in names if name not in self.class_names]
            raise ValueError(
                f"The classes differ: {', '.join(extra)} in these videos belong to "
                f"none of the {len(names)} classes of the model, of which "
                f"{', '.join(missing) or 'none'} have no videos here. Leave these "
                "videos out or rename their classes."
            )
        positions = [names.index(name) for name in self.class_names]
        labels = tuple(positions[label] for label in self.labels)
        return dataclasses.replace(self, labels=labels, class_names=names)

    def only(self, group):
        """Returns the videos of one group, such as "static".

        Args:
            group: One of the groups in this list.

        Returns:
            A VideoList in the same order, with all class names.

        Raises:
            ValueError: If there's no such group.
        """
        if group not in self.groups:
            raise ValueError(
                f"No videos of group {group!r}; groups here: {sorted(set(self.groups))}"
            )
        return self.take([i for i, g in enumerate(self.groups) if g == group])

    def split(self, train_fraction, seed=1):
        """Draws a random split, stratified by class and group (thesis 7.4.2).

        Of every class in every group round(train_fraction * n) of the n videos are
        drawn for training, at least one and at most n - 1; YUP++'s protocol is 0.1,
        3 of 30. The draw of one class and group doesn't depend on the others.

        Args:
            train_fraction: Share of the training set, between 0 and 1.
            seed: Number of the split.

        Returns:
            Two VideoLists, training and test, both in this list's order.

        Raises:
            ValueError: If the fraction isn't between 0 and 1, or a class has a
                single video in a group.
        """
        if not 0 < train_fraction < 1:
            raise ValueError(
                f"train_fraction must be between 0 and 1, got {train_fraction}."
            )
        strata = {}
        for i, key in enumerate(zip(self.groups, self.labels, strict=True)):
            strata.setdefault(key, []).append(i)
        train = set()
        for (group, label), members in strata.items():
            count = len(members)
            if count < 2:
                raise ValueError(
                    f"Class {self.class_names[label]!r} has a single video"
                    + (f" in group {group!r}" if group else "")
                    + "; a split needs at least two."
                )
            # The group's name seeds the draw, so that splitting only("static")
            # draws the same videos as splitting the whole.
            rng = np.random.default_rng([seed, label, *group.encode()])
            size = min(max(1, round(train_fraction * count)), count - 1)
            train.update(members[i] for i in rng.permutation(count)[:size])
        everything = range(len(self))
        return (
            self.take([i for i in everything if i in train]),
            self.take([i for i in everything if i not in train]),
        )


def _group_folders(root):
    """Yields (folder of class folders, group name)."""
    found = [(root / n, g) for n, g in YUP_GROUPS.items() if (root / n).is_dir()]
    return found or [(root, "")]


def _subfolders(folder):
    """Class folders in sorted order."""
    folders = sorted(
        p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
    )
    if not folders:
        raise VideoError(
            f"{folder}: holds no class folders; expected <class>/<video> in it."
        )
    return folders


def _videos(folder):
    """Video files of one class in sorted order."""
    videos = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()
    )
    if not videos:
        raise VideoError(
            f"{folder}: holds no videos; accepted endings: {', '.join(EXTENSIONS)}."
        )
    return videos


def _check_classes(where, names):
    if len(set(names)) != len(names):
        twice = sorted({n for n in names if list(names).count(n) > 1})
        raise VideoError(f"{where}: class names stand there twice: {twice}.")
    if len(names) < 2:
        raise VideoError(
            f"{where}: a classifier needs at least two classes, found {list(names)}."
        )


def _entries(file):
    """Yields (line number, path, label, group) of a list file."""
    delimiter = "," if file.suffix.lower() == ".csv" else " "
    with open(file, newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        for row, fields in enumerate(reader):
            fields = [f.strip() for f in fields]
            while fields and not fields[-1]:
                fields.pop()
            if not fields or fields[0].startswith("#"):
                continue
            if row == 0 and fields[:2] == ["path", "label"]:
                continue
            if len(fields) not in (2, 3) or not all(fields[:2]):
                raise VideoError(
                    f"{file}, line {reader.line_num}: expected path, label and maybe "
                    f"a group, got {len(fields)} field(s): {fields}. Put a path with "
                    f"{'a comma' if delimiter == ',' else 'spaces'} in double quotes."
                )
            yield reader.line_num, fields[0], fields[1], (fields + [""])[2]


def _is_number(text):
    return text.isascii() and text.isdigit()


def _all_numbers(entries):
    return all(_is_number(label) for _, _, label, _ in entries)


def _class_names(entries, class_names):
    """The caller's class names, or the sorted distinct labels of the list."""
    if class_names is not None:
        return tuple(class_names)
    labels = {label for _, _, label, _ in entries}
    return tuple(sorted(labels, key=int if _all_numbers(entries) else str))


def _name_of(label, names, entries, where):
    """Class name of a label, which is a name or a position."""
    if label in names:
        return label
    if _all_numbers(entries):
        if int(label) < len(names):
            return names[int(label)]
        raise VideoError(
            f"{where}: label {label} is outside 0...{len(names) - 1}, the positions "
            f"of the {len(names)} class names; a list that counts from 1 needs names."
        )
    raise VideoError(
        f"{where}: label {label!r} is none of the classes {list(names)}; add it to "
        "class_names or correct the list."
    )
