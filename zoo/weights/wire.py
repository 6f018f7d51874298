"""The wire format of protocol buffers, as far as weights need it: fields of a message.

Without a schema and without a copy: values are numbers, or views into the message.

Source: the public description of the encoding (Protocol Buffers, Google 2008).
"""

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZE = {FIXED64: 8, FIXED32: 4}
_KINDS = {**_SIZE, VARINT: None, BYTES: None}


def fields(message):
    """The fields of a message in their order: (number, kind, value).

    Args:
        message: a memoryview of bytes.

    Yields:
        `kind` is one of this module's constants. The value of VARINT is an int, that of
        BYTES a memoryview, that of FIXED64 and FIXED32 an array of bytes [n, 8 or 4]:
        neighbouring fields of one number, such as repeated numbers that are not packed,
        come as one.

    Raises:
        ValueError: the message ends within a field, or holds what is no field.

    Source: Protocol Buffers, "Encoding".
    """
    at = 0
    while at < len(message):
        begin = at
        number, kind, at = tag(message, at)
        if kind == VARINT:
            value, at = varint(message, at)
        elif kind == BYTES:
            size, at = varint(message, at)
            value = _part(message, at, size)
            at += size
        else:
            value = _run(message, begin, at, _SIZE[kind])
            at = begin + len(value) * (at - begin + _SIZE[kind])
        yield number, kind, value


def tag(message, at=0):
    """What stands before a field: (number, kind, where its value begins).

    Raises:
        ValueError: no field begins there.

    Source: Protocol Buffers, "Encoding".
    """
    value, end = varint(message, at)
    number, kind = value >> 3, value & 7
    if not number or kind not in _KINDS:
        raise ValueError(f"byte {at} begins no field of a protocol buffer")
    return number, kind, end


def varint(message, at):
    """A number of seven bits per byte, the lowest first, and where it ends.

    Raises:
        ValueError: it has no end.

    Source: Protocol Buffers, "Encoding".
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError(f"it ends within a number, after {at} bytes")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number before byte {at} has no end")


def _part(message, at, size):
    if size > len(message) - at:
        raise ValueError(
            f"it ends early: a field of {size} bytes begins at byte {at} of "
            f"{len(message)}"
        )
    return message[at : at + size]


def _run(message, begin, at, size):
    """Values [n, size] of the fields from `begin` on that have the tag of the first."""
    step = at - begin + size
    _part(message, at, size)
    count = (len(message) - begin) // step
    table = np.frombuffer(message, "u1", count * step, begin).reshape(count, step)
    first, n, known = table[0, :-size], 16, 1
    while known < count:  # in steps that grow: one field must not cost a whole scan
        same = (table[known:n, :-size] == first).all(axis=1)
        if not same.all():
            known += int(same.argmin())
            break
        known, n = min(n, count), 4 * n
    return table[:known, -size:]
