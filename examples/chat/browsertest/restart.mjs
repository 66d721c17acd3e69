// What happens to the connection, and what must not happen to the messages.
import assert from 'node:assert/strict';
import { control, enter, everyone, online, people, say, shot, stored, texts, until, wide } from './stage.mjs';

export async function restart({ ann, bob, eve, all }) {
  // SIGKILL while Bob writes: what is confirmed, what is on its way and what is written offline, all of it once.
  const before = await texts(ann);
  const lines = Array.from({ length: 12 }, (_, i) => `line ${i + 1} of Bob`);
  for (const l of lines.slice(0, 6)) await say(bob, l);
  const killed = control('kill');
  for (const l of lines.slice(6)) await say(bob, l);
  await killed;
  for (const page of all) await until('the page says that it is offline', async () => (await page.locator('#banner').isVisible()) && (await page.locator('#status').textContent()) === 'Offline');
  await say(ann, 'written offline');
  await say(eve, 'from the phone, offline');
  await until('it is shown as waiting', async () => (await ann.locator('#log .sending .what').allTextContents()).join() === 'written offline');
  assert.match(await ann.locator('#log .sending').textContent(), /Waiting for the connection/);
  assert.match(await ann.locator('#banner').textContent(), /You are offline\. 1 message waits to be sent\./);
  await until('it says when it tries again', async () => /Trying again in \d+ s|Connecting/.test(await ann.locator('#countdown').textContent()));
  assert.equal((await people(ann)).length, 0);
  await shot(ann, 'offline-light');
  await shot(eve, 'offline-phone');

  await control('start');
  if (await ann.locator('#again').isVisible()) await ann.locator('#again').click({ timeout: 500 }).catch(() => {}); // it may be back by itself
  for (const page of all) await online(page);
  for (const page of all) assert.ok(!await page.locator('#banner').isVisible());
  const sent = [...lines, 'written offline', 'from the phone, offline'];
  const whole = async (p) => (await texts(p)).length === before.length + sent.length && (await p.locator('#log .sending').count()) === 0;
  await until('all have everything', () => everyone(all, whole));
  await say(ann, 'the last one'); // behind which nothing can come twice
  await until('all have the last one', () => everyone(all, async (p) => (await texts(p)).at(-1) === 'the last one'));

  const order = await texts(ann);
  assert.deepEqual(order.slice(0, before.length), before);
  assert.deepEqual(order.slice(before.length, -1).sort(), [...sent].sort());
  for (const page of all) assert.deepEqual(await texts(page), order, 'one order for all');
  assert.deepEqual(order.filter((t) => lines.includes(t)), lines, 'Bob in the order of his writing');
  const kept = (await stored(ann, 'general')).filter((t) => sent.includes(t));
  assert.deepEqual(kept.sort(), [...sent].sort(), 'the gateway has each of them once');
  await until('everyone is back', () => everyone(all, async (p) => (await people(p)).length === 3));
  for (const page of all) { await page.reload(); await online(page); }
  for (const page of all) await until('after a reload it is the same', async () => JSON.stringify(await texts(page)) === JSON.stringify(order));
}

export async function unsent({ ann, bob }) {
  // A page that was written in while offline, and reloaded before it was online again.
  const context = await bob.context().browser().newContext(wide);
  const page = await context.newPage();
  let cut = false;
  await page.routeWebSocket(/\/ws$/, (ws) => { if (cut) ws.close({ code: 1001 }); else ws.connectToServer(); });
  await enter(page, 'Dora');
  cut = true;
  await page.evaluate(() => window.dispatchEvent(new Event('offline'))); // the browser notices that there is no network
  await until('Dora is offline', () => page.locator('#banner').isVisible());
  await say(page, 'before the reload');
  await page.reload();
  await until('it still waits', async () => (await page.locator('#log .sending .what').allTextContents()).join() === 'before the reload');
  cut = false;
  await until('it is online again', async () => {
    if (await page.locator('#again').isVisible()) await page.locator('#again').click({ timeout: 500 }).catch(() => {}); // it may be back by itself
    return (await page.locator('#status').textContent()) === 'Online';
  });
  await until('it is sent', async () => (await texts(ann)).filter((t) => t === 'before the reload').length === 1 && (await page.locator('#log .sending').count()) === 0);
  await page.reload();
  await online(page);
  assert.deepEqual((await stored(page, 'general')).filter((t) => t === 'before the reload'), ['before the reload']);
  await context.close();
}
