"""The settings of one model load: from vLLM's extra config and from the environment."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import attrs

from yr_fastload_native.devices.cpu import ORDINARY_MEMORY
from yr_fastload_native.devices.registry import KINDS
from yr_fastload_native.errors import DeviceError, InvalidArgumentError
from yr_fastload_native.settings import (
    ENVIRONMENT_PREFIX,
    SECRETS,
    Config,
    ExchangeConfig,
    allowed,
    is_loopback,
    parse_address,
)
from yr_fastload_native.transports import registry

__all__ = ["Settings"]

_ENVIRONMENT_ONLY = ("patch",)
_LIKE_A_SECRET = re.compile("secret|token|key|passw|credential", re.IGNORECASE)


@attrs.frozen
class Settings:
    """How weights move, and how that fits around vLLM."""

    transfer: Config
    exchange: ExchangeConfig

    @classmethod
    def of(cls, extra: object) -> Settings:
        """Read ``--model-loader-extra-config``, and the environment for what that does not set.

        Raises:
            InvalidArgumentError: A key is unknown or a value not allowed; the message says what is allowed.
            DeviceError: The requested transport is not available on this machine.
        """
        if not isinstance(extra, Mapping):
            raise InvalidArgumentError(
                f"model_loader_extra_config ({type(extra).__name__}) is not a JSON object", op="config"
            )
        of_transfer = {field.name for field in attrs.fields(Config)}
        of_exchange = {field.name for field in attrs.fields(ExchangeConfig)} - set(_ENVIRONMENT_ONLY)
        for key, value in extra.items():
            if key not in of_transfer | of_exchange:
                raise _unknown(key, value, (of_transfer | of_exchange) - SECRETS)
            if key in SECRETS:
                raise InvalidArgumentError(
                    f"model_loader_extra_config has {key!r}, which every user of the machine can read in the arguments "
                    f"of vLLM's process, and vLLM logs; use {key}_file, or the variable "
                    f"{ENVIRONMENT_PREFIX}{key.upper()}",
                    op="config",
                )
        settings = cls(
            Config.from_env(**{key: value for key, value in extra.items() if key in of_transfer}),
            ExchangeConfig.from_env(**{key: value for key, value in extra.items() if key in of_exchange}),
        )
        settings._check_device()
        return settings

    def transfer_of(self, model: Any) -> Config:
        """The settings of a model's transfer: ``zero_copy`` is decided.

        Chunks become as large as tensors by it. So it is not used with a worker that may have neighbours on other
        machines, to which openYuanrong does not reliably bring large ones, nor with devices, which have them in parts.
        """
        config = self.transfer
        if config.zero_copy != "auto":
            return config
        is_ordinary = all(parameter.device.type == ORDINARY_MEMORY.name for parameter in model.parameters())
        is_simulated = any(kind.stands_in() for kind in KINDS)
        decided = is_ordinary and not is_simulated and _is_here(config.worker_address())
        return attrs.evolve(config, zero_copy=decided)

    def _check_device(self) -> None:
        config = self.transfer
        named = {"transport": config.transport, "publish_as": config.publish_as}
        for setting, value in named.items():
            for transport in registry.named(value.split("+")):
                kinds = [kind for kind in KINDS if transport.reaches(kind)]
                if not any(kind.is_available() for kind in kinds):
                    raise DeviceError(
                        f"{setting}={value!r} moves weights {' and '.join(kind.where for kind in kinds)}, and this "
                        "process has none; use 'auto' or 'host', or start under `yr-fastload sim --`",
                        op="config",
                    )


def _is_here(worker: str) -> bool:
    """Whether nobody on another machine reaches a worker by the address by which this process does."""
    if worker == "auto":
        return True
    host, _ = parse_address(worker, op="config")
    return is_loopback(host)


def _unknown(key: object, value: object, known: set[str]) -> InvalidArgumentError:
    # The key may be the misspelt name of a secret.
    secret = difflib.get_close_matches(str(key).lower(), sorted(SECRETS), 1) or _LIKE_A_SECRET.search(str(key))
    shown = "" if secret else f": {value!r}"
    return InvalidArgumentError(
        f"model_loader_extra_config has {key!r}{shown}, which is not a setting; {allowed(str(key), known)}", op="config"
    )
