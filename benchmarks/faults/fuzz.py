"""Damaged records on every topic that a run reads: no worker stops, each is a dead letter, the digest is the same.

`make fuzz RECORDS=1000000`: the records of an undisturbed run are damaged (`mutants.py`) and sent to a second run on
the same log, a portion after each epoch except the last few. Each damaged record must be in `dead_letters` with its
bytes, no process may be restarted, and the digest must be that of the first run. A row is written for each seed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from confluent_kafka import Producer, TopicPartition
from rich.progress import Progress

from benchmarks.faults.mutants import READ, Keyed, mutants
from benchmarks.faults.whole_run import Run, kafka_home
from benchmarks.servers.kafka import Cluster
from deploy.runs import FoundRun, find
from streams.database.schema import dead_letters
from streams.kafka import clients
from streams.kafka.message import Message
from streams.settings import Settings
from streams.topics import Topic

RESULT = Path(__file__).with_name("fuzz.json")
_MAX_RECORDS = 500  # maximal number of records of a partition that are damaged
ARGUMENTS = ("--limit", "5400", "--epoch", "300", "--retrain-every", "900", "--evaluate", "0.5")
_PORTIONS, _EPOCHS = 14, 18  # the log must not end before the last portion is sent
_PATIENCE_S = 3_600.0
Position = tuple[str, int, int]  # topic, partition, offset


def first_records(settings: Settings, topic: Topic) -> list[Keyed]:
    """Return the first records of each partition of `topic`."""
    consumer: Any = clients.consumer(settings, "first-records")
    real: list[Keyed] = []
    try:
        for partition in range(topic.partitions(settings)):
            position = TopicPartition(topic.full(settings), partition, 0)
            _, end = consumer.get_watermark_offsets(position, timeout=10)
            consumer.assign([position])
            for _ in range(min(end, _MAX_RECORDS)):
                message = consumer.poll(10)
                if message is None or message.error():
                    raise RuntimeError(f"{topic.name}/{partition} can't be read")
                real += [(each.key, each.value) for each in Message.of_kafka(topic.name, message) if each.value]
                if message.offset() >= end - 1:
                    break
    finally:
        consumer.close()
    return real


class MutantSender:
    """Sends mutants, and keeps the position and the CRC-32 of each."""

    def __init__(self, settings: Settings, real: dict[Topic, list[Keyed]], seed: int) -> None:
        self._settings, self._chance = settings, random.Random(seed)  # noqa: S311 - it has to be repeatable
        self._mutants = {topic: mutants(topic, records, self._chance) for topic, records in real.items()}
        self._producer: Any = Producer(clients.access(settings) | {"acks": "all", "linger.ms": 20})
        self.sent: dict[Position, int] = {}
        self.left_out = 0

    def send(self, records: int, advance: Callable[[], object] = lambda: None) -> None:
        """Send `records` mutants to the topics in turn; return when all are acknowledged. Raises RuntimeError."""
        turns = list(self._mutants.items())
        for n in range(records):
            topic, source = turns[n % len(turns)]
            while (mutant := next(source)) is None:
                self.left_out += 1
            partition = self._chance.randrange(topic.partitions(self._settings))
            self._produce(topic, partition, *mutant)
            advance()
        if self._producer.flush(120):
            raise RuntimeError("the broker did not take all records")

    def _produce(self, topic: Topic, partition: int, key: bytes, value: bytes) -> None:
        def on_delivery(error: Any, message: Any) -> None:
            if error is None:
                self.sent[topic.name, message.partition(), message.offset()] = zlib.crc32(value)

        clients.produce_waiting(
            self._producer,
            topic.full(self._settings),
            key=key,
            value=value,
            partition=partition,
            on_delivery=on_delivery,
        )
        self._producer.poll(0)


def dead_letter_checksums(found: FoundRun) -> Iterator[tuple[Position, int, str]]:
    """Yield the dead letters of a run: position of the record, CRC-32 of its bytes, role that refused it."""
    d = dead_letters.c
    query = sa.select(d.topic, d.partition, d.offset, d.value, d.role).where(d.run == found.settings.run)
    with found.engine.connect() as connection:
        for topic, partition, offset, value, role in connection.execution_options(yield_per=10_000).execute(query):
            yield (topic, partition, offset), zlib.crc32(value), role


def fuzz(home: Path, records: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run twice, the second time with damaged records. Return the row."""
    with Cluster(home, folder / "kafka") as cluster, Progress() as bar:
        if error := Run(folder / "undisturbed", cluster, arguments=ARGUMENTS).wait(_PATIENCE_S):
            raise RuntimeError(f"the undisturbed run fails: {error}")
        undisturbed = find(str(folder / "undisturbed")).settings
        real = {topic: first_records(undisturbed, topic) for topic in READ}
        task = bar.add_task("records", total=records)
        run = Run(folder / "fuzzed", cluster, arguments=ARGUMENTS)
        try:
            sender = send_during_run(run, real, records, seed, lambda: bar.advance(task))
            if error := run.wait(_PATIENCE_S):
                raise RuntimeError(f"the run with damaged records fails: {error}")
        finally:
            if run.process.poll() is None:
                run.stop()
    found = find(str(folder / "fuzzed"))
    kept, roles = dict[Position, int](), Counter[str]()
    for position, check, role in dead_letter_checksums(found):
        kept[position] = check
        roles[role] += 1
    summary = {name: json.loads((folder / name / "summary.json").read_text()) for name in ("undisturbed", "fuzzed")}
    return {
        "seed": seed,
        "records": len(sender.sent),
        "by_topic": dict(sorted(Counter(topic for topic, _, _ in sender.sent).items())),
        "left_out": sender.left_out,
        "missing": sum(kept.get(position) != check for position, check in sender.sent.items()),
        "others": len(set(kept) - set(sender.sent)),
        "dead_letters": dict(sorted(roles.items())),
        "restarts": summary["fuzzed"]["restarts"],
        "digest": summary["fuzzed"]["digest"],
        "expected": summary["undisturbed"]["digest"],
        "seconds": summary["fuzzed"]["seconds"],
    }


def send_during_run(
    run: Run, real: dict[Topic, list[Keyed]], records: int, seed: int, advance: Callable[[], object]
) -> MutantSender:
    """Send damaged records during `run`. Raises RuntimeError if its log ended too early."""
    run.until(0)
    sender = MutantSender(find(str(run.out)).settings, real, seed)
    for portion in range(_PORTIONS):
        run.until(portion)
        sender.send(records // _PORTIONS + (portion < records % _PORTIONS), advance)
    if run.epoch() >= _EPOCHS - 1:
        raise RuntimeError("the log ended before all records were sent")
    return sender


def good(row: dict[str, Any]) -> bool:
    """Return True if every damaged record is a dead letter and nothing else has changed."""
    return not (row["missing"] or row["others"] or row["restarts"]) and row["digest"] == row["expected"]


def main() -> None:
    """Run, and write the row; exit code 1 if it is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    home = kafka_home(parser)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    row = fuzz(home, options.records, options.seed, folder)
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    rows = sorted([each for each in rows if each["seed"] != options.seed] + [row], key=lambda each: int(each["seed"]))
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(json.dumps(row))
    if good(row):
        shutil.rmtree(folder)
    sys.exit(0 if good(row) else 1)


if __name__ == "__main__":
    main()
