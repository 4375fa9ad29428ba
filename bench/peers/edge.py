"""A turnstile as a plain script: serial in, SQLite, a stand-in for GPIO, MQTT out. Debian's pyserial, sqlite3 and paho-mqtt.

edge.py <reader> <database> <salt, hex> <output> <broker's port> <topic> <wal|plain>
"""
import hashlib
import json
import sqlite3
import sys
import time

import paho.mqtt.client as mqtt
import serial

reader, database, salt, output, port, topic, mode = sys.argv[1:]
salt = bytes.fromhex(salt)
db = sqlite3.connect(database, isolation_level=None)
if mode == "wal":
    db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
lane = open(output, "wb", buffering=0)
client = mqtt.Client()
client.connect("127.0.0.1", int(port))
client.loop_start()
line = serial.Serial(reader, 115200)
print("ready", flush=True)
while True:
    code = line.read_until(b"\r\n").rstrip()
    ref = hashlib.sha256(salt + code).digest()[:16]
    found = db.execute("SELECT id, status FROM tickets WHERE ref = ?", (ref,)).fetchone()
    used = found and db.execute("SELECT at FROM used WHERE ref = ?", (ref,)).fetchone()
    if not found or found[1] != 0 or used:
        continue
    row = json.dumps({"ticket": found[0], "ref": ref.hex(), "at": time.time(), "kind": "grant"})
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO ledger (entry) VALUES (?)", (row,))
    db.execute("INSERT INTO used (ref, at) VALUES (?, ?)", (ref, time.time()))
    db.execute("COMMIT")
    lane.write(b"1")
    client.publish(topic, row, qos=1)
