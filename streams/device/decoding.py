"""Decoding and checking of the device worker's records."""

from __future__ import annotations

from streams.codec import Reader, RecordError
from streams.device.live_ranking import check_request
from streams.kafka.message import Message, check_batch
from streams.records import DeviceBatch, DeviceEvent, Forget, GatewayRequest, SlowPriors
from streams.settings import Settings
from streams.topics import CLOUD_DOWNLINK

_events: Reader[DeviceEvent] = Reader(DeviceEvent)
_priors: Reader[SlowPriors] = Reader(SlowPriors)


def decode(message: Message, settings: Settings) -> DeviceEvent | SlowPriors | RecordError:
    """Return the record of a message, or the error because of which it is refused."""
    try:
        if message.topic == CLOUD_DOWNLINK.name:
            priors = _priors.decode(message.value)
            message.check_user(priors.user, settings.partitions)
            return priors
        event = _events.decode(message.value)
        if isinstance(event, DeviceBatch):
            message.check_user(event.user, settings.partitions)
            check_batch(event)
        elif isinstance(event, GatewayRequest | Forget):
            message.check_user(event.user, settings.partitions)
            if settings.lockstep:
                return RecordError("requests of gateways are refused in lockstep")
            if isinstance(event, GatewayRequest):
                check_request(event)
    except RecordError as error:
        return error
    return event
