"""One message is one `SOCK_SEQPACKET` datagram: how it is written, and who may send which."""

from typing import Any, Final

import msgspec

from shared.errors import StreamProtocolError
from shared.messages import FromPool, FromRouter, FromWorker, FromZygote, Message, ToWorker, ToZygote
from shared.tool_messages import FromHost, FromHostToWorker, FromWorkerToHost, ToHost

MAX_MESSAGE_BYTES: Final = 65_536

_encoder = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """Write a message as one datagram.

    Raises:
        StreamProtocolError: it would be larger than 64 KiB.
    """
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        msg = f"{type(message).__name__} of {len(data)} bytes is over {MAX_MESSAGE_BYTES}"
        raise StreamProtocolError(msg)
    return data


class Reader(msgspec.Struct, frozen=True):
    """Reads the messages one peer may send."""

    decoder: Any

    def __call__(self, data: bytes) -> Any:
        """Read one datagram.

        Raises:
            StreamProtocolError: it is not one of the messages this peer may send.
        """
        try:
            return self.decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # 64 KiB of brackets nest too deep
            msg = f"unreadable message: {error}"
            raise StreamProtocolError(msg) from error


FROM_ROUTER: Final = Reader(msgspec.json.Decoder(FromRouter))
FROM_POOL: Final = Reader(msgspec.json.Decoder(FromPool))
TO_ZYGOTE: Final = Reader(msgspec.json.Decoder(ToZygote))
FROM_ZYGOTE: Final = Reader(msgspec.json.Decoder(FromZygote))
TO_WORKER: Final = Reader(msgspec.json.Decoder(ToWorker))
FROM_WORKER: Final = Reader(msgspec.json.Decoder(FromWorker))
TO_HOST: Final = Reader(msgspec.json.Decoder(ToHost))
FROM_HOST: Final = Reader(msgspec.json.Decoder(FromHost))
WORKER_TO_HOST: Final = Reader(msgspec.json.Decoder(FromWorkerToHost))
HOST_TO_WORKER: Final = Reader(msgspec.json.Decoder(FromHostToWorker))
