// A client program on mqtt.js (MQTT 3.1, 3.1.1 and 5). It reads requests as JSON lines
// and answers each with one.
import { createInterface } from 'node:readline';
import mqtt from 'mqtt';

let client;
let messages = [];
let waiting = [];

const b64 = (text) => Buffer.from(text ?? '', 'base64');

const operations = {
  async connect(r) {
    messages = [];
    const options = {
      host: r.host, port: r.port, clientId: r.client_id, clean: !r.durable, reconnectPeriod: 0,
      protocolVersion: r.version, protocolId: r.version === 3 ? 'MQIsdp' : 'MQTT',
    };
    if (r.version === 5 && r.durable) options.properties = { sessionExpiryInterval: 3600 };
    if (r.will) options.will = { topic: r.will.topic, payload: b64(r.will.body), qos: r.will.qos, retain: r.will.retain };
    client = mqtt.connect(options);
    client.on('message', (topic, payload, packet) => {
      const m = { topic, payload, packet };
      const next = waiting.shift();
      if (next) next(m); else messages.push(m);
    });
    const ack = await new Promise((resolve, reject) => {
      client.once('connect', resolve);
      client.once('error', reject);
      client.once('close', () => reject(new Error('closed')));
    });
    client.on('error', () => {});
    return { present: ack.sessionPresent };
  },
  async publish(r) {
    const options = { qos: r.qos, retain: !!r.retain };
    if (client.options.protocolVersion === 5) {
      const p = options.properties = {};
      if (r.content_type) p.contentType = r.content_type;
      if (r.response_topic) p.responseTopic = r.response_topic;
      if (r.expiry) p.messageExpiryInterval = r.expiry;
      if (r.correlation) p.correlationData = b64(r.correlation);
      for (const [name, value] of r.user ?? []) {
        p.userProperties ??= {};
        p.userProperties[name] = [...(p.userProperties[name] ?? []), value];
      }
    }
    await client.publishAsync(r.topic, b64(r.body), options);
  },
  async subscribe(r) {
    const [granted] = await client.subscribeAsync(r.topic, { qos: r.qos });
    if (granted.qos > 2) throw new Error(`SUBACK says ${granted.qos}`);
  },
  async receive(r) {
    const m = messages.shift() ?? await new Promise((resolve) => {
      const timer = setTimeout(() => { waiting = waiting.filter((w) => w !== take); resolve(null); }, r.timeout_ms);
      const take = (x) => { clearTimeout(timer); resolve(x); };
      waiting.push(take);
    });
    if (!m) return { none: true };
    const p = m.packet.properties ?? {};
    return {
      topic: m.topic, body: m.payload.toString('base64'), qos: m.packet.qos, retain: m.packet.retain, dup: m.packet.dup,
      content_type: p.contentType ?? '', response_topic: p.responseTopic ?? '', expiry: p.messageExpiryInterval ?? 0,
      correlation: (p.correlationData ?? Buffer.alloc(0)).toString('base64'),
      user: Object.entries(p.userProperties ?? {}).flatMap(([name, v]) => [v].flat().map((value) => [name, value])),
    };
  },
  async disconnect() { await client.endAsync(); },
};

for await (const line of createInterface({ input: process.stdin })) {
  const r = JSON.parse(line);
  let reply;
  try {
    reply = { ...await operations[r.op](r), ok: true };
  } catch (e) {
    reply = { ok: false, error: String(e) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
process.exit(0);
