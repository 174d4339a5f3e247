#!/usr/bin/env python3
"""Makes a near store far: a proxy with a time to the first byte and a pace for each connection.

    scripts/far_store.py STORE_PORT [--first-byte 25] [--pace 60]

Prints the port that it listens on (loopback), then serves until its standard input ends. The answer to a
request begins `--first-byte` milliseconds after the request at the earliest; each connection carries at most
`--pace` MB/s in each direction. Bodies pass through pipes inside the kernel, so the proxy costs little.
"""

import argparse
import os
import select
import socket
import sys
import threading
import time

CHUNK = 128 << 10


class Connection:
    """One client's connection and ours to the store."""

    def __init__(self, client, store, first_byte, pace):
        self.client, self.store = client, store
        self.first_byte, self.pace = first_byte, pace
        # Since when the request that is on its way comes, how much of it has, and the same of its answer.
        self.begun, self.sent = time.monotonic(), 0
        self.asked, self.answered = self.begun, 0

    def requests(self):
        for count in moved(self.client, self.store, self.wait_to_send):
            self.sent += count

    def wait_to_send(self):
        if self.answered:
            self.begun, self.sent = time.monotonic(), 0
        sleep_until(self.begun + self.sent / self.pace)
        # Before the store has the request: its answer may come before this thread has another turn.
        self.asked, self.answered = time.monotonic(), 0

    def answers(self):
        for count in moved(self.store, self.client, self.wait_to_answer):
            self.answered += count

    def wait_to_answer(self):
        sleep_until(self.asked + self.first_byte + self.answered / self.pace)


def sleep_until(moment):
    delay = moment - time.monotonic()
    if delay > 0:
        time.sleep(delay)


def moved(source, target, before=lambda: None):
    """Moves what comes, yielding counts, until either side ends; then ends both."""
    reading, writing = os.pipe()
    try:
        while True:
            select.select([source], [], [])
            before()
            count = os.splice(source.fileno(), writing, CHUNK)
            if not count:
                return
            left = count
            while left:
                left -= os.splice(reading, target.fileno(), left)
            yield count
    except OSError:
        return  # Reset by one side: the other is told by the shutdown below.
    finally:
        os.close(reading)
        os.close(writing)
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # Already gone.


def serve(connection):
    answers = threading.Thread(target=connection.answers, daemon=True)
    answers.start()
    connection.requests()
    answers.join()
    connection.client.close()
    connection.store.close()


def accept(listener, options):
    while True:
        client, _ = listener.accept()
        store = socket.create_connection(("127.0.0.1", options.store_port))
        for end in (client, store):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, store, options.first_byte / 1000, options.pace * 1e6)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("store_port", type=int)
    parser.add_argument("--first-byte", type=float, default=25, help="milliseconds")
    parser.add_argument("--pace", type=float, default=60, help="MB/s of each connection")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(listener, options), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
