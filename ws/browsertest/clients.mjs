// mqgate.js, stompjs and mqtt.js in Node.
import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { Client as Stomp } from '@stomp/stompjs';
import mqtt from 'mqtt';
import { Client, MqgateError } from './mqgate.js';

const host = process.env.GATEWAY;
const once = (f) => new Promise((resolve, reject) => { setTimeout(() => reject(new Error('nothing came')), 10000).unref(); f(resolve); });

// stompjs, in text and in binary.
for (const forceBinaryWSFrames of [false, true]) {
  const body = 'grüße 🙂 '.repeat(50);
  const client = new Stomp({ webSocketFactory: () => new WebSocket(`ws://${host}/stomp`, ['v12.stomp']), forceBinaryWSFrames, reconnectDelay: 0 });
  const message = await once((resolve) => {
    client.onConnect = () => { client.subscribe('/queue/a', resolve); client.publish({ destination: '/queue/a', body, headers: { receipt: '1' } }); };
    client.activate();
  });
  assert.equal(message.body, body);
  await client.deactivate();
}

// mqtt.js
const device = await mqtt.connectAsync(`ws://${host}/mqtt`, { protocolVersion: 4, reconnectPeriod: 0 });
await device.publishAsync('a/b', 'x', { qos: 1 });
await device.endAsync(true);

// mqgate.js
const options = { url: `ws://${host}/ws`, WebSocket, minDelayMs: 50, maxDelayMs: 200 };
const states = [];
const a = new Client({ ...options, name: 'a', onstate: (s) => states.push(s) });
const b = new Client({ ...options, name: 'b' });

const worker = b.subscribe('/queue/work', (m) => {
  if (m.redelivered) { m.ack(); b.publish(m.replyTo, { sum: m.data.x + m.data.y }, { correlationId: m.correlationId }); } else m.nack({ delayMs: 0 });
}, { ack: 'client' });
const reply = await a.request('/queue/work', { x: 2, y: 3 }, { timeoutMs: 8000 });
assert.deepEqual(reply.data, { sum: 5 });
worker.close();
await assert.rejects(a.request('/queue/nobody', 'x', { timeoutMs: 1 }), (e) => e instanceof MqgateError && e.code === 'timeout' && e.retry);
await assert.rejects(a.publish('/nowhere', 'x'), (e) => e.code === 'invalid' && !e.retry);

const seen = [];
let missed = 0;
await once((resolve) => b.subscribe('/topic/chat/rooms/n', (m) => seen.push(m.data ?? m.base64), { history: { last: 10 }, onmissed: () => missed++, onready: resolve }));
assert.equal((await a.presence('/topic/chat/rooms/n'))[0].name, 'b');
for (let i = 0; i < 20; i++) await a.publish('/topic/chat/rooms/n', { i });
const sent = [];
const control = (verb) => fetch(`${process.env.CONTROL}/${verb}`, { method: 'POST' });
let restarted;
for (let i = 20; i < 60; i++) { // while the server stops, is away, and comes back
  if (i === 30) restarted = control('stop');
  if (i === 50) restarted = restarted.then(() => control('start'));
  sent.push(a.publish('/topic/chat/rooms/n', { i }));
  await new Promise((r) => setTimeout(r, 10));
}
await restarted;
await Promise.all(sent);
for (let i = 0; i < 200 && seen.length < 60; i++) await new Promise((r) => setTimeout(r, 50));
assert.deepEqual(seen.map((d) => d.i), Array.from({ length: 60 }, (_, i) => i));
assert.equal(missed, 0);
assert.ok(states.includes('offline') && states.at(-1) === 'online', states.join());
a.close();
await assert.rejects(a.publish('/queue/x', 'y'), (e) => e.code === 'closed');
b.close();
console.log('clients: all done');
