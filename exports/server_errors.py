"""What a server can answer instead of a result, as exceptions.

All are `ServerError`s and so `OSError`s; what a caller can act upon has a class of its
own: `RequestRefused` is wrong whenever it is sent again, `NotServed` until somebody
exports it, `Unavailable` and `DeadlineExceeded` perhaps not the next time.

Source: grpc.io/docs/guides/status-codes; TensorFlow Serving's REST interface for the
HTTP status of each code.
"""

# HTTP status of each code, as TensorFlow Serving gives it; the first one stands for
# those that share it.
_OF_HTTP = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ServerError(OSError):
    """A request that got no result.

    Attributes:
        code: of gRPC, such as "INTERNAL".

    Source: grpc.io/docs/guides/status-codes.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class RequestRefused(ServerError, ValueError):
    """The server read the request and does not accept it.

    Source: INVALID_ARGUMENT, FAILED_PRECONDITION and OUT_OF_RANGE of gRPC.
    """


class NotServed(ServerError, LookupError):
    """No such model, version or method.

    Source: NOT_FOUND and UNIMPLEMENTED of gRPC.
    """


class Unavailable(ServerError, ConnectionError):
    """Nobody answers, or the server has no room; retries did not help.

    Source: UNAVAILABLE of gRPC.
    """


class DeadlineExceeded(ServerError, TimeoutError):
    """No answer in time.

    Source: DEADLINE_EXCEEDED of gRPC.
    """


_CLASSES = {
    "INVALID_ARGUMENT": RequestRefused,
    "FAILED_PRECONDITION": RequestRefused,
    "OUT_OF_RANGE": RequestRefused,
    "NOT_FOUND": NotServed,
    "UNIMPLEMENTED": NotServed,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def server_error(code, message, address):
    """The exception of a code.

    Args:
        code: of gRPC, by name. message: of the server. address: where it is.

    Source: grpc.io/docs/guides/status-codes.
    """
    kind = _CLASSES.get(code, ServerError)
    return kind(code, f"{address} answers {code}: {readable(message)}")


def code_of_http(status):
    """The code of gRPC of an HTTP status (TensorFlow Serving's REST interface)."""
    return _OF_HTTP.get(status, "INTERNAL")


def readable(message):
    """What an assertion in a graph says, without the names of operations.

    Source: none; the form is that of tf.debugging.Assert.
    """
    if "assertion failed: [" not in message:
        return message
    text = message.split("assertion failed: [", 1)[1].split("\n")[0]
    return text.replace(":] [", ": [", 1)
