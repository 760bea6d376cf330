"""Only read the topic, by librdkafka in Python: nothing is decoded and nothing kept."""

from bench.contenders.python_source import batches
from lakehouse.settings import get_settings


def main() -> None:
    """Read the topic to its end."""
    for _ in batches(get_settings(), 10_000):
        pass


if __name__ == "__main__":
    main()
