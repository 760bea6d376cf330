"""The trigger that rings when a file was announced; it runs in Airflow's triggerer."""

from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.apache.kafka.triggers.shared_stream import KafkaSharedStreamTrigger
from airflow.triggers.base import TriggerEvent


class Doorbell(KafkaSharedStreamTrigger):
    """Ring for each message, and pass on nothing of it: who is woken reads the topic for themselves.

    The provider's own trigger decodes the message into Airflow's database. One that is no UTF-8 would end the trigger,
    and come again for ever.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where the triggerer finds this class, and its arguments."""
        _, arguments = super().serialize()
        return f"{__name__}.{type(self).__name__}", arguments

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Ring once for each message."""
        async for _ in shared_stream:
            yield TriggerEvent("a file was announced")
