import os


def active() -> bool:
    return os.environ.get("YR_FASTLOAD_SIM") == "1"
