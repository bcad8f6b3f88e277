"""Every error that `aimo2` raises on purpose. Knows no other module.

    Aimo2Error
    ├── InputError            what the user gave cannot be used (exit code 2)
    │   └── ConfigError       a flag, an environment variable or a TOML value
    ├── SetupError            the machine cannot do it as it is (exit code 2)
    │   ├── DownloadError     no source of a model could be reached or read
    │   ├── IntegrityError    a file's bytes are not the ones the catalogue names
    │   ├── DiskFullError     no room for a file that we must write
    │   └── ServerError       an inference server did not start, or died for good
    ├── ModelError            one request to a served model failed
    │   ├── ModelUnavailable  connection refused or lost, 429 or 5xx, after all retries
    │   ├── RequestRejected   the server answered 4xx: asking again would not help
    │   │   ├── ContextFull   prompt and reply no longer fit the server's context window
    │   │   └── KeyRefused    the server lets us not in: the API key is wrong or missing
    │   └── DeadlinePassed    the deadline came before the server's answer
    ├── SandboxError          a kernel could not be made, or was used after it was closed
    └── ProtocolError         a competition's message cannot be read or written
        ├── GatewayError      the other end's conduct ended the competition's run
        └── Withheld          we end before the answer: it may be asked for again

A failed rollout is a record, not an exception: `ModelError` and `SandboxError` are caught at the
rollout's boundary and stored in its trace. Every message names what was wrong and the mend.
"""


class Aimo2Error(Exception):
    """Base of all errors here. `str(error)` is one line for a user: what is wrong and the mend."""


class InputError(Aimo2Error):
    """What the user gave cannot be used."""


class ConfigError(InputError):
    """A flag, an environment variable or a configuration value cannot be used."""


class SetupError(Aimo2Error):
    """The machine cannot do what was asked as it is now."""


class DownloadError(SetupError):
    """No source of a model could be reached or read to its end."""


class IntegrityError(SetupError):
    """A file's bytes are not the ones that the catalogue names."""


class DiskFullError(SetupError):
    """There is no room for a file that has to be written."""


class ServerError(SetupError):
    """An inference server did not start, or died and could not be restarted."""


class ModelError(Aimo2Error):
    """One request to a served model failed."""


class ModelUnavailable(ModelError):  # noqa: N818 - reads as a state, like httpx's names
    """The server could not be reached or was overloaded, after all retries."""


class RequestRejected(ModelError):  # noqa: N818
    """The server answered 4xx: asking again would not help."""


class ContextFull(RequestRejected):
    """Prompt and reply no longer fit the server's context window."""


class KeyRefused(RequestRejected):
    """The server did not let us in: the API key is wrong, or there is none."""


class DeadlinePassed(ModelError):  # noqa: N818
    """The deadline came before the server's answer."""


class SandboxError(Aimo2Error):
    """A kernel could not be made, or was used after it was closed."""


class ProtocolError(Aimo2Error):
    """A message of a competition's protocol cannot be read or written."""


class GatewayError(ProtocolError):
    """What an inference server did, or did not do, ended the run of a gateway.

    `kind`: the competition's own name for it, such as `SERVER_NEVER_STARTED`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Withheld(ProtocolError):  # noqa: N818
    """We end before there is an answer. The question stays open: whoever asks again has it."""
