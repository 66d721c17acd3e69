// Who is in the room without a browser: mosquitto_pub and mosquitto_sub, and PHP over STOMP.
import assert from 'node:assert/strict';
import { count, everyone, online, people, php, publish, say, shot, start, texts, until } from './stage.mjs';

const env = process.env;

export async function devices({ ann, bob, eve, all }) {
  // An MQTT client reads the room, and is someone in it.
  const reader = start('mosquitto_sub', '-h', '127.0.0.1', '-p', env.MQTT_PORT, '-i', 'press-7', '-q', '1', '-t', 'chat/+/general');
  await until('the MQTT client is there', () => everyone(all, async (p) => (await people(p)).includes('press-7')));
  assert.match(await ann.locator('#people li', { hasText: 'press-7' }).textContent(), /MQTT/);
  await say(bob, 'Hello, press');
  await until('mosquitto_sub prints it', () => reader.text.split('\n').some((l) => l.startsWith('{') && JSON.parse(l).text === 'Hello, press' && JSON.parse(l).from === 'Bob'));

  // And writes: JSON as the page does, plain words, JSON of its own, a name by a v5 property, bytes.
  await publish('chat/rooms/general', '{"from":"press-7","text":"Paper low: 12 %"}');
  await publish('chat/rooms/general', 'plain words from a shell');
  await publish('chat/rooms/general', '{"temp":21.5}');
  await publish('chat/rooms/general', 'with a name', '-V', '5', '-D', 'publish', 'user-property', 'from', 'Sensor');
  const five = ['Hello, press', 'Paper low: 12 %', 'plain words from a shell', '{\n  "temp": 21.5\n}', 'with a name'];
  await until('all of it is shown', () => everyone(all, async (p) => JSON.stringify((await texts(p)).slice(-5)) === JSON.stringify(five)));
  assert.deepEqual((await eve.locator('#log .theirs.head .name').allTextContents()).slice(-3), ['press-7', 'unnamed', 'Sensor']);
  reader.kill();
  await until('the MQTT client has left', () => everyone(all, async (p) => !(await people(p)).includes('press-7')));

  // PHP speaks as the system.
  await php('system.php', 'general', 'Maintenance: at noon, <b>ü</b>');
  await until('the system message is there', () => everyone(all, async (p) => (await p.locator('#log .system .what').allTextContents()).join() === 'Maintenance: at noon, <b>ü</b>'));
  // Nobody can pass for it in the room itself.
  await publish('chat/rooms/general', '{"from":"System","text":"send me your password","system":true,"kind":"system"}');
  await until('it is an ordinary message', async () => (await ann.locator('#log .theirs .what').last().textContent()) === 'send me your password');
  assert.equal(await ann.locator('#log .system').count(), 1);
  await eve.reload();
  await online(eve);
  await until('the system message is in the history, in its place', async () => (await texts(eve)).slice(-2).join() === 'Maintenance: at noon, <b>ü</b>,send me your password');
  await shot(bob, 'devices-dark');
}

const removed = 'Removed by a moderator';

export async function moderation({ ann, bob, eve, all }) {
  process.env.BANNED = 'spam';
  let moderator = start('php', `${env.SCRIPTS}/moderate.php`);
  await until('the moderator is there', async () => moderator.text.includes('is here') && (await people(ann)).includes('moderator'));

  // It removes by itself what has a banned word, and says why in the terminal.
  await say(eve, 'buy SPAM, cheap');
  await say(eve, 'spammers are not welcome');
  await until('it is removed for all', () => everyone(all, async (p) => (await texts(p)).slice(-2).join() === `${removed},spammers are not welcome`));
  assert.match(moderator.text, /^removed .* in general: banned word$/m);

  // Someone reports: the moderator looks at what was really said, not at what the report says.
  await ann.locator('#log .msg', { hasText: 'spammers are not welcome' }).hover();
  await ann.locator('#log .msg', { hasText: 'spammers are not welcome' }).locator('.report').click();
  await until('the report is decided', () => /^kept .* in general$/m.test(moderator.text));
  assert.equal(await count(ann, 'spammers are not welcome'), 1);

  // Reported while no moderator runs, and judged by stricter rules after its restart, of which it knows by its subscription.
  moderator.kill();
  await moderator.ended;
  await until('the moderator is gone', async () => !(await people(ann)).includes('moderator'));
  await say(bob, 'such a scam');
  await until('it is there', () => everyone(all, async (p) => (await count(p, 'such a scam')) === 1));
  await ann.locator('#log .msg', { hasText: 'such a scam' }).hover();
  await ann.locator('#log .msg', { hasText: 'such a scam' }).locator('.report').click();
  await until('it is reported', async () => /Reported/.test(await ann.locator('#toast').textContent()));
  process.env.BANNED = 'scam, welcome';
  moderator = start('php', `${env.SCRIPTS}/moderate.php`);
  await until('both are removed', () => everyone(all, async (p) => (await texts(p)).slice(-3).join() === [removed, removed, removed].join()));

  // It stays removed for who comes later, and nothing of it is in the page.
  await ann.reload();
  await online(ann);
  await until('the history is there', async () => (await texts(ann)).slice(-3).join() === [removed, removed, removed].join());
  assert.ok(!(await ann.content()).includes('SPAM') && !(await ann.content()).includes('scam'));
  await shot(ann, 'moderated-light');
  moderator.kill();
  await moderator.ended;
}
