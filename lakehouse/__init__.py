"""An online shop's lakehouse: events from Kafka to daily aggregates, with proof that none is lost or doubled."""

__version__ = "0.1.0"
