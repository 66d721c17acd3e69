"""A client program on Eclipse Paho's Python client (MQTT 3.1, 3.1.1 and 5). program.py says
how it is told what to do."""

import base64
import queue
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from program import serve

SECONDS = 60
VERSIONS = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}


class Client:
    def __init__(self):
        self.client = None
        self.five = False

    def connect(self, r):
        self.five = r["version"] == 5
        self.messages, self.connected, self.answers = queue.Queue(), queue.Queue(), queue.Queue()
        clean = not r.get("durable")
        more = {} if self.five else {"clean_session": clean}
        c = self.client = mqtt.Client(client_id=r["client_id"], protocol=VERSIONS[r["version"]], **more)
        c.on_connect = lambda client, data, flags, code, properties=None: self.connected.put((flags, code))
        c.on_message = lambda client, data, m: self.messages.put(m)
        c.on_subscribe = lambda client, data, mid, codes, properties=None: self.answers.put(codes)
        if r.get("will"):
            w = r["will"]
            c.will_set(w["topic"], base64.b64decode(w["body"]), w["qos"], w["retain"])
        if self.five:
            p = Properties(PacketTypes.CONNECT)
            p.SessionExpiryInterval = 3600 if r.get("durable") else 0
            c.connect(r["host"], r["port"], clean_start=clean, properties=p)
        else:
            c.connect(r["host"], r["port"])
        c.loop_start()
        flags, code = self.connected.get(timeout=SECONDS)
        if int(getattr(code, "value", code)) != 0:
            raise RuntimeError("CONNACK says %s" % code)
        return {"present": bool(flags["session present"])}

    def publish(self, r):
        properties = None
        if self.five:
            properties = Properties(PacketTypes.PUBLISH)
            for name, key in (("ContentType", "content_type"), ("ResponseTopic", "response_topic"), ("MessageExpiryInterval", "expiry")):
                if r.get(key):
                    setattr(properties, name, r[key])
            if r.get("correlation"):
                properties.CorrelationData = base64.b64decode(r["correlation"])
            if r.get("user"):
                properties.UserProperty = [tuple(u) for u in r["user"]]
        sent = self.client.publish(r["topic"], base64.b64decode(r.get("body", "")), r["qos"], r.get("retain", False), properties)
        done = threading.Event()
        threading.Thread(target=lambda: (sent.wait_for_publish(), done.set()), daemon=True).start()
        if not done.wait(SECONDS):
            raise RuntimeError("not confirmed")

    def subscribe(self, r):
        self.client.subscribe(r["topic"], qos=r["qos"])
        code = self.answers.get(timeout=SECONDS)[0]
        if int(getattr(code, "value", code)) > 2:
            raise RuntimeError("SUBACK says %s" % code)

    def receive(self, r):
        try:
            m = self.messages.get(timeout=r["timeout_ms"] / 1000)
        except queue.Empty:
            return {"none": True}
        reply = {"topic": m.topic, "body": base64.b64encode(m.payload).decode(), "qos": m.qos, "retain": bool(m.retain), "dup": bool(m.dup)}
        p = getattr(m, "properties", None)
        if p is not None:
            reply["content_type"] = getattr(p, "ContentType", "")
            reply["response_topic"] = getattr(p, "ResponseTopic", "")
            reply["expiry"] = getattr(p, "MessageExpiryInterval", 0)
            reply["correlation"] = base64.b64encode(getattr(p, "CorrelationData", b"")).decode()
            reply["user"] = [list(u) for u in getattr(p, "UserProperty", [])]
        return reply

    def disconnect(self, r):
        self.client.disconnect()
        self.client.loop_stop()


serve(Client())
