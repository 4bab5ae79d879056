"""What a user may set, where it is read from, and what is refused."""

from yr_fastload_native.settings.addresses import host_of, is_loopback, parse_address
from yr_fastload_native.settings.config import SECRETS, Config
from yr_fastload_native.settings.environment import ENVIRONMENT_PREFIX, allowed
from yr_fastload_native.settings.exchange import ExchangeConfig
from yr_fastload_native.settings.fields import TRANSPORTS

__all__ = [
    "ENVIRONMENT_PREFIX",
    "SECRETS",
    "TRANSPORTS",
    "Config",
    "ExchangeConfig",
    "allowed",
    "host_of",
    "is_loopback",
    "parse_address",
]
