"""Settings of the exchange around vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from yr_fastload_native.settings.environment import ENVIRONMENT_PREFIX, parse, read, settings
from yr_fastload_native.settings.fields import boolean, json_object, number, one_of, path, setting, text

__all__ = ["ExchangeConfig"]


@settings
@attrs.frozen(kw_only=True)
class ExchangeConfig:
    """Settings of the exchange of weights around vLLM's own loading; immutable, and checked when created.

    ``docs/settings.md`` lists each with its meaning, default and environment variable.

    Raises:
        InvalidArgumentError: A value is not allowed; the message says which ones are.
    """

    cold_load_format: str = setting(
        "auto",
        text,
        "vLLM's load format for weights that cannot be pulled. Only used by the load format `yr_fastload`.",
    )
    cold_load_extra_config: Mapping[str, Any] = setting(
        attrs.Factory(dict), json_object, "`model_loader_extra_config` of the cold load format, a JSON object."
    )
    share: str = setting(
        "sharded",
        one_of("sharded", "checkpoint", "both", "auto"),
        "What instances share. `sharded`: weights as an instance has loaded them, which one with the same version, "
        "layout and ranks pulls. `checkpoint`: the tensors in the files, from which instances of every layout and "
        "version load as they would from disk. `both`: an instance pulls the first where there are any, else loads "
        "from the second, and publishes both. `auto`: the same, but publishes its own only if the checkpoint cannot "
        "be published, for which the worker's memory may be too small.",
    )
    stage: str = setting(
        "raw",
        one_of("raw", "final"),
        "`raw` exchanges weights as they are in the checkpoint, before vLLM processes them for its kernels. `final` "
        "exchanges them afterwards, which saves the processing; it is refused if processing creates anything that "
        "is not a tensor.",
    )
    fingerprint: str = setting(
        "files",
        text,
        "What tells checkpoints apart. `files`: names, sizes, headers and a sample of every tensor in the files "
        "that are read, and their SHA-256 sums if both sides know them. `files:full`: the sums, for which each file "
        "is read completely once per machine and user. Any other text is used as it is, for example a revision: "
        "using the same text for different weights mixes them up, and an instance that is given one needs no "
        "weights on its disk.",
    )
    verify_files: str = setting(
        "background",
        one_of("background", "off"),
        "Whether files that were only sampled before weights were exchanged (`files`) are read completely "
        "afterwards and compared with the publisher's. Each state of a file is read once per machine and user, at "
        "the lowest CPU and disk priority, without filling the page cache.",
    )
    on_wrong: str = setting(
        "log",
        one_of("log", "exit"),
        "What happens if files turn out to differ from those that the pulled weights came from. `log` logs it at "
        "CRITICAL, and this process stops being a source of them; `exit` also ends the process, with status 65.",
    )
    fallback: str = setting(
        "cold",
        one_of("cold", "error"),
        "What happens if weights cannot be pulled: `cold` loads them as vLLM would have, `error` ends the start.",
    )
    publish: str = setting(
        "background",
        one_of("background", "inline", "off"),
        "When an instance that loaded from disk publishes: `background`, while it continues to start up; `inline`, "
        "before that; or `off`. Without an NPU `background` acts as `inline`, because vLLM repacks the weights and "
        "both versions would be in memory. A checkpoint is loaded from the worker's memory while it is being "
        "published, or with `inline` afterwards.",
    )
    publish_device_bytes: int = setting(
        0,
        number(int, 0, 1 << 50),
        "Most device memory that weights as loaded take beside what processing has replaced them with, until they are "
        "published. Beyond it they are copied to the worker while processing goes on, and an instance that pulled them "
        "serves them no longer. 0: a twentieth of the device's memory.",
        "bytes",
    )
    wait_for_publisher_s: float = setting(
        120.0,
        number(float, 0, 86400),
        "How long instances that start together wait for the one that reads the disk and publishes. 0: every "
        "instance reads the disk. If the reading one dies, another takes over within `lease_s`.",
        "s",
    )
    share_caches: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Whether what vLLM compiles is published, and what others have compiled is taken, so that an instance need not "
        "compile. Such files are code. `auto` takes them if a process of this user on this machine made them, if the "
        "worker requires curve keys or an access key, or if `trusted_digests` names them; `on` takes them from whoever "
        "the worker lets publish.",
    )
    share_caches_bytes: int = setting(
        1 << 30, number(int, 1 << 20, 1 << 40), "Most bytes of compiled files that are published or taken.", "bytes"
    )
    share_model_files: bool = setting(
        True,
        boolean,
        "Whether the small files of a model's directory (config, tokenizer, chat template) are published too, so that "
        "`yr-fastload serve` can start instances on machines that do not have it.",
    )
    report: str = setting(
        "",
        path,
        "File to which every rank appends lines of JSON about what it loaded and published. Empty: none.",
    )
    patch: bool = setting(
        False,
        boolean,
        "Whether vLLM's own loaders exchange weights too, without another load format. Environment only.",
    )

    @staticmethod
    def patch_from_env(environ: Mapping[str, str] | None = None) -> bool:
        """The setting ``patch`` alone, which is needed before a loader is created.

        Raises:
            InvalidArgumentError: Its text is not a boolean.
        """
        environ = os.environ if environ is None else environ
        name = ENVIRONMENT_PREFIX + "PATCH"
        return bool(parse(name, environ.get(name, "0"), bool))

    @staticmethod
    def report_from_env(environ: Mapping[str, str] | None = None) -> str:
        """The setting ``report`` alone, as the environment has it."""
        return (os.environ if environ is None else environ).get(ENVIRONMENT_PREFIX + "REPORT", "")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **settings: Any) -> ExchangeConfig:
        """Create one from ``YR_FASTLOAD_<SETTING>`` variables; ``settings`` take precedence.

        Raises:
            InvalidArgumentError: A variable does not have its setting's type. Unknown names only cause a warning.
        """
        return cls(**read(cls, environ, settings))
