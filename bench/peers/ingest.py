"""Ledger messages into Postgres as a plain script with its own batching. Debian's paho-mqtt and psycopg2.

ingest.py <broker's port> <database url> <topic filter> <client id>

Every message is acknowledged by the library when it has come; rows wait in memory for at most 1,000 others or 50 ms.
"""
import json
import queue
import sys
import time

import paho.mqtt.client as mqtt
import psycopg2
import psycopg2.extras

port, url, topic, client_id = sys.argv[1:]
db = psycopg2.connect(url)
waiting = queue.Queue()
client = mqtt.Client(client_id=client_id, clean_session=False)
client.on_message = lambda _client, _data, message: waiting.put(message.payload)
client.on_connect = lambda *_: client.subscribe(topic, qos=1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", int(port))
client.loop_start()
while True:
    rows = []
    until = None
    while len(rows) < 1000:
        try:
            payload = waiting.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        until = until or time.monotonic() + 0.05
        message = json.loads(payload)
        for entry in message["entries"]:
            rows.append((message["gate"], message["epoch"], entry["seq"], json.dumps(entry)))
    with db, db.cursor() as cursor:
        psycopg2.extras.execute_values(
            cursor, "INSERT INTO peer_rows (gate, epoch, seq, entry) VALUES %s ON CONFLICT DO NOTHING", rows, page_size=1000
        )
