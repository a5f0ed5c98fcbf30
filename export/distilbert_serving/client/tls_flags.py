"""The flags of commands that ask a server over TLS."""

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from distilbert_serving.client.channel import Tls


def define_tls(values: flags.FlagValues) -> None:
    """Defines --tls, and a flag for each field of `Tls`."""
    flags.DEFINE_boolean(
        "tls", False, "speak TLS; implied by the other flags of TLS", flag_values=values
    )
    flags.DEFINE_string(
        "root_certificates", None, "PEM file: who may have signed the server's", flag_values=values
    )
    flags.DEFINE_string("client_key", None, "PEM file, for mutual TLS", flag_values=values)
    flags.DEFINE_string("client_certificate", None, "PEM file, for mutual TLS", flag_values=values)
    flags.DEFINE_string(
        "server_name",
        None,
        "name in the server's certificate, if not that of its address",
        flag_values=values,
    )


def make_tls(values: flags.FlagValues) -> "Tls | None":
    """Returns what the flags say; None without TLS."""
    from distilbert_serving.client.channel import Tls

    fields = {field.name: values[field.name].value for field in dataclasses.fields(Tls)}
    has_tls = values.tls or any(value is not None for value in fields.values())
    return Tls(**fields) if has_tls else None
