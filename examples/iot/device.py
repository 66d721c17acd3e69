"""A device: python3 device.py NAME COUNT [PAUSE]

It keeps a session with the gateway (clean_session=False): commands that are sent
while it is away wait there, for as long as mqtt.max_session_expiry says. It reports
COUNT times, and goes when it has received what waited for it.
"""

import json
import os
import sys
import threading
import time

import paho.mqtt.client as mqtt

name, count = sys.argv[1], int(sys.argv[2])
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0.05
ready = threading.Event()


def on_connect(client, userdata, flags, code):
    if code != 0:
        print(f"{name}: the gateway refused: {mqtt.connack_string(code)}", flush=True)
        os._exit(1)
    print(f"{name}: connected, {'the session was kept' if flags['session present'] else 'a new session'}", flush=True)
    client.subscribe(f"devices/{name}/command", qos=1)


def on_message(client, userdata, message):
    command = json.loads(message.payload)
    print(f"{name}: command {command['do']}", flush=True)
    answer = json.dumps({"device": name, "done": command["do"]})
    client.publish(f"devices/{name}/done", answer, qos=1)


client = mqtt.Client(client_id=name, clean_session=False)
client.will_set(f"devices/{name}/status", "lost", qos=1, retain=True)
client.on_connect = on_connect
client.on_message = on_message
client.on_subscribe = lambda *_: ready.set()
client.connect(os.environ.get("MQTT_HOST", "127.0.0.1"), int(os.environ.get("MQTT_PORT", "1883")))
client.loop_start()
if not ready.wait(30):
    sys.exit(f"{name}: the gateway does not answer")
client.publish(f"devices/{name}/status", "online", qos=1, retain=True).wait_for_publish()
for n in range(1, count + 1):
    report = json.dumps({"device": name, "n": n, "celsius": 20 + n % 7})
    client.publish(f"devices/{name}/telemetry", report, qos=1).wait_for_publish()
    time.sleep(pause)
time.sleep(pause * 10)  # what waited for it arrives and is answered
client.publish(f"devices/{name}/status", "offline", qos=1, retain=True).wait_for_publish()
client.disconnect()
client.loop_stop()
print(f"{name}: sent {count} reports", flush=True)
