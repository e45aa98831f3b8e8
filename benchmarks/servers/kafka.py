"""Nodes of a real Apache Kafka on free ports of this machine, which can be killed and started again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from tenacity import retry, retry_if_exception_type, retry_if_not_result, stop_after_delay, wait_fixed

from deploy.local.broker import free_port

_HEAP = "-Xms128m -Xmx512m"


@dataclass
class Node:
    """One broker and controller."""

    number: int
    folder: Path
    port: int
    controller: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        """Its server.properties."""
        return self.folder / "server.properties"


class Cluster:
    """A Kafka of `nodes` nodes; with three, each topic is kept on at least two. A context: stopped at its end.

    `listener` is the protocol of clients and between brokers, `more` further properties, `users` what --add-scram is
    given. The log survives a kill: it is in `folder`.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        nodes: int = 1,
        *,
        listener: str = "PLAINTEXT",
        more: str = "",
        users: Sequence[str] = (),
    ) -> None:
        self._home, self._listener, self._more, self._users = home, listener, more, users
        self.nodes = [Node(n, folder / f"node-{n}", free_port(), free_port()) for n in range(1, nodes + 1)]
        self.addresses = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> Self:
        cluster, *directories = (self._tool("kafka-storage.sh", "random-uuid") for _ in range(len(self.nodes) + 1))
        voters = ",".join(
            f"{node.number}@127.0.0.1:{node.controller}:{directory}"
            for node, directory in zip(self.nodes, directories, strict=True)
        )
        quorum = ["--standalone"] if len(self.nodes) == 1 else ["--initial-controllers", voters]
        scram = [word for user in self._users for word in ("--add-scram", user)]
        with ExitStack() as started:
            started.callback(self.__exit__)  # where it does not come up
            for node in self.nodes:
                node.folder.mkdir(parents=True)
                node.config.write_text(self._properties(node))
                self._tool(
                    "kafka-storage.sh", "format", "--cluster-id", cluster, "--config", node.config, *quorum, *scram
                )
                self.start(node)
            if self._listener == "PLAINTEXT":
                self.wait()
            started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.process.terminate()
        for node in self.nodes:
            if node.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    node.process.wait(30)
                node.process.kill()  # a controller waits for a quorum that is gone
                node.process.wait()

    def start(self, node: Node) -> None:
        """Start a node, on what its log holds."""
        environment = {**os.environ, "KAFKA_HEAP_OPTS": _HEAP, "LOG_DIR": str(node.folder)}
        with (node.folder / "kafka.log").open("ab") as log:
            command = [self._home / "bin" / "kafka-server-start.sh", node.config]
            node.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self, node: Node) -> None:
        """Kill a node at once."""
        assert node.process is not None
        node.process.kill()
        node.process.wait()

    @retry(
        retry=retry_if_exception_type(KafkaException) | retry_if_not_result(bool),
        stop=stop_after_delay(90),
        wait=wait_fixed(0.1),
    )
    def wait(self) -> bool:
        """Wait until every node is there."""
        brokers = AdminClient({"bootstrap.servers": self.addresses, "log_level": 0}).list_topics(timeout=2).brokers
        return len(brokers) == len(self.nodes)

    def _tool(self, name: str, *arguments: str | Path) -> str:
        done = subprocess.run([self._home / "bin" / name, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()[-1]

    def _properties(self, node: Node) -> str:
        name, copies = self._listener, len(self.nodes)
        controllers = ",".join(f"127.0.0.1:{each.controller}" for each in self.nodes)
        return (
            f"process.roles=broker,controller\nnode.id={node.number}\n"
            f"controller.quorum.bootstrap.servers={controllers}\n"
            f"listeners={name}://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller}\n"
            f"advertised.listeners={name}://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller}\n"
            f"inter.broker.listener.name={name}\ncontroller.listener.names=CONTROLLER\n"
            f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,{name}:{name}\n{self._more}"
            f"log.dirs={node.folder / 'logs'}\n"
            f"offsets.topic.replication.factor={copies}\ntransaction.state.log.replication.factor={copies}\n"
            f"transaction.state.log.min.isr={min(copies, 2)}\nmin.insync.replicas={min(copies, 2)}\n"
            "group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n"
            "log.cleaner.dedupe.buffer.size=10485760\n"
        )
