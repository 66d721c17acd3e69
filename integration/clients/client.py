"""A client program on stomp.py (STOMP 1.2). program.py says how it is told what to do."""

import base64
import queue
import uuid

import stomp

from program import serve

RECEIPT_SECONDS = 60


class Listener(stomp.ConnectionListener):
    def __init__(self):
        self.messages = queue.Queue()
        self.answers = queue.Queue()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.answers.put(("receipt", frame.headers["receipt-id"]))

    def on_error(self, frame):
        self.answers.put(("error", frame.headers.get("message", "") + " " + as_bytes(frame.body).decode("utf-8", "replace")))

    def on_disconnected(self):
        self.answers.put(("error", "disconnected"))


def as_bytes(body):
    if body is None:
        return b""
    return body.encode("utf-8") if isinstance(body, str) else body


class Client:
    def __init__(self):
        self.connection = None
        self.listener = None
        self.frames = {}

    def confirmed(self, call, receipt):
        """Runs call with headers that ask for a receipt, and waits for that."""
        if not receipt:
            call({})
            return
        wanted = uuid.uuid4().hex
        call({"receipt": wanted})
        kind, text = self.listener.answers.get(timeout=RECEIPT_SECONDS)
        if kind == "error":
            raise RuntimeError(text)
        if text != wanted:
            raise RuntimeError("receipt %s instead of %s" % (text, wanted))

    def connect(self, r):
        self.listener = Listener()
        self.frames = {}
        beat = r.get("headers", {}).pop("heart-beat", "0,0").split(",")
        self.connection = stomp.Connection12(
            [(r["host"], r["port"])], auto_decode=False, reconnect_attempts_max=1,
            heartbeats=(int(beat[0]), int(beat[1])))
        self.connection.set_listener("", self.listener)
        self.connection.connect(r.get("login"), r.get("passcode"), wait=True, headers=r.get("headers", {}))

    def send(self, r):
        headers = self.headers(r)
        body = base64.b64decode(r.get("body", ""))
        self.confirmed(lambda more: self.connection.send(r["destination"], body, headers={**headers, **more}), r.get("receipt"))

    def subscribe(self, r):
        self.confirmed(lambda more: self.connection.subscribe(
            r["destination"], r["id"], r["ack"], headers={**self.headers(r), **more}), r.get("receipt"))

    def unsubscribe(self, r):
        self.confirmed(lambda more: self.connection.unsubscribe(r["id"], headers={**self.headers(r), **more}), r.get("receipt"))

    def receive(self, r):
        try:
            frame = self.listener.messages.get(timeout=r["timeout_ms"] / 1000)
        except queue.Empty:
            return {"none": True}
        self.frames[frame.headers["message-id"]] = frame
        return {"headers": frame.headers, "body": base64.b64encode(as_bytes(frame.body)).decode()}

    def ack(self, r):
        self.settle(r, self.connection.ack)

    def nack(self, r):
        self.settle(r, self.connection.nack)

    def settle(self, r, call):
        ack = self.frames[r["message"]].headers["ack"]
        headers = {k: v for k, v in self.headers(r).items() if k != "transaction"}
        transaction = r.get("transaction")
        # Its own receipt parameter is another name for the header.
        self.confirmed(lambda more: call(ack, transaction=transaction, receipt=more.get("receipt"), **headers), r.get("receipt"))

    def begin(self, r):
        self.confirmed(lambda more: self.connection.begin(r["transaction"], headers=more), r.get("receipt"))

    def commit(self, r):
        self.confirmed(lambda more: self.connection.commit(r["transaction"], headers=more), r.get("receipt"))

    def abort(self, r):
        self.confirmed(lambda more: self.connection.abort(r["transaction"], headers=more), r.get("receipt"))

    def disconnect(self, r):
        self.connection.disconnect()

    @staticmethod
    def headers(r):
        headers = dict(r.get("headers", {}))
        if r.get("transaction"):
            headers["transaction"] = r["transaction"]
        return headers


serve(Client())
