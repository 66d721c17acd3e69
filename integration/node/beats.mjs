// stompjs with the heart-beats that browsers use, only faster: both sides beat for longer than either would wait.
import assert from 'node:assert/strict';
import { WebSocket } from 'ws';
import { Client } from '@stomp/stompjs';

const beats = { in: 0, out: 0 };
const fail = (why) => { console.error(why); process.exit(1); };
setTimeout(() => fail(`no end: ${JSON.stringify(beats)}`), 60000).unref();
const client = new Client({
  webSocketFactory: () => new WebSocket(process.argv[2], ['v12.stomp']), heartbeatIncoming: 1000, heartbeatOutgoing: 500, reconnectDelay: 0,
  debug: (line) => { if (/PONG/.test(line)) beats.in++; if (/PING/.test(line)) beats.out++; },
  onWebSocketClose: (e) => { if (client.active) fail(`closed with ${e.code} ${e.reason} after ${JSON.stringify(beats)}`); },
  onStompError: (f) => fail(f.body),
});
const connected = await new Promise((resolve) => { client.onConnect = resolve; client.activate(); });
assert.equal(connected.headers['heart-beat'], '1000,500');
while (beats.in < 3 || beats.out < 6) await new Promise((r) => setTimeout(r, 50));
const body = await new Promise((resolve) => {
  client.subscribe('/queue/beats', (m) => resolve(m.body));
  client.publish({ destination: '/queue/beats', body: 'still here' });
});
assert.equal(body, 'still here');
await client.deactivate();
console.log(`beats: ${beats.in} of the server, ${beats.out} of the client`);
process.exit(0);
