// Drives the chat with three browsers, one of them a phone.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const base = `http://${process.env.GATEWAY}`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
const evil = '<img src=x onerror=1>';
const problems = [];

async function visitor(name, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 700 }, ...options });
  return enter(await context.newPage(), name);
}

async function enter(page, name) {
  page.on('dialog', (d) => { problems.push(`dialog ${d.message()}`); d.dismiss(); });
  page.on('pageerror', (e) => problems.push(`error ${e.message}`));
  page.on('console', (m) => { if (m.type() === 'error' && !/WebSocket connection|ERR_CONNECTION/.test(m.text())) problems.push(`console ${m.text()}`); });
  await page.goto(`${base}/chat/`);
  if (await page.locator('#welcome').isVisible()) {
    await page.fill('#name', name);
    await page.keyboard.press('Enter');
  }
  await page.locator('#status.online').waitFor();
  return page;
}

const texts = (page) => page.locator('#log li .what').allTextContents();
async function until(what, ok) {
  for (let i = 0; i < 200; i++) {
    if (await ok()) return;
    await new Promise((r) => setTimeout(r, 50));
  }
  await Promise.all(browser.contexts().flatMap((c) => c.pages()).map((p, i) => shot(p, `failed-${i}`)));
  throw new Error(`did not happen: ${what}; ${problems.join('; ')}`);
}
async function say(page, text) {
  await page.fill('#text', text);
  await page.locator('#text').press('Enter');
}
const shot = (page, name) => page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });

const ann = await visitor('Ann');
const bob = await visitor('Bob', { colorScheme: 'dark' });
const eve = await visitor(evil.slice(0, 24), { viewport: { width: 375, height: 667 }, hasTouch: true, isMobile: true });
const all = [ann, bob, eve];

// Presence, and messages both ways.
await until('everyone sees three', async () => (await Promise.all(all.map((p) => p.locator('#people li').count()))).every((n) => n === 3));
await say(ann, 'Hello, everyone');
await say(bob, 'Hi Ann.\nTwo lines & <b>no markup</b>');
await until('both arrived', async () => (await texts(eve)).length === 2);
await say(eve, '<script>document.title="owned"</script>');
await until('three messages', async () => (await Promise.all(all.map(async (p) => (await texts(p)).length))).every((n) => n === 3));

// What users wrote stayed text.
for (const page of all) {
  assert.equal(await page.locator('#app img, #log b b, #log script').count(), 0);
  assert.match(await page.title(), /general/);
}
assert.ok((await ann.locator('#people').textContent()).includes('<img'), 'the name is shown as it is');
assert.ok((await ann.locator('#log .who b').last().textContent()).startsWith('<img'));

// Typing.
await bob.locator('#text').pressSequentially('I am');
await until('ann sees bob typing', async () => (await ann.locator('#typing').textContent()).includes('Bob is typing'));
await shot(ann, 'desktop');
await bob.fill('#text', '');

// History after a reload; a second tab is the same person.
await bob.reload();
await bob.locator('#status.online').waitFor();
await until('bob has the history', async () => (await texts(bob)).length === 3);
const tab = await enter(await ann.context().newPage(), 'Ann');
await until('two connections of one person', async () => (await bob.locator('#people').textContent()).includes('Ann (2 connections)'));
assert.equal(await bob.locator('#people li').count(), 3);
await tab.close();
await until('the tab left', async () => !(await bob.locator('#people').textContent()).includes('(2'));

// Another room by keyboard, and unread counts.
await ann.locator('#text').press('Alt+ArrowDown');
assert.match(await ann.locator('#title').textContent(), /random/);
await say(bob, 'unread in general');
await until('ann sees one unread', async () => (await ann.locator('#rooms .new').textContent()) === '1');
await ann.locator('#text').press('Alt+ArrowUp');
assert.equal(await ann.locator('#rooms .new').count(), 0);

// Names of others in a phone's drawer.
await eve.locator('#menu').click();
await eve.locator('#side.open').waitFor();
await eve.waitForTimeout(250);
await shot(eve, 'phone-drawer');
await eve.keyboard.press('Escape');
assert.ok(await eve.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'no sideways scrolling');
await eve.waitForTimeout(250);
await shot(eve, 'phone');

// A restart of the server: what is written meanwhile arrives, once, in one order.
await fetch(`${process.env.CONTROL}/stop`, { method: 'POST' });
await ann.locator('#status.offline').waitFor();
await say(ann, 'written offline 1');
await say(ann, 'written offline 2');
await shot(ann, 'offline');
await fetch(`${process.env.CONTROL}/start`, { method: 'POST' });
for (const page of all) await page.locator('#status.online').waitFor();
await say(bob, 'after the restart');
await until('all caught up', async () => (await Promise.all(all.map(async (p) => (await texts(p)).length))).every((n) => n >= 7));
await say(bob, 'the last one'); // behind which nothing can come twice
await until('all have the last one', async () => (await Promise.all(all.map(async (p) => (await texts(p)).includes('the last one')))).every(Boolean));
const got = await Promise.all(all.map(texts));
for (const t of got) {
  assert.equal(t.length, 8, t.join(' | '));
  assert.equal(new Set(t).size, 8);
}
assert.deepEqual([...got[2]].sort(), [...got[0]].sort());
assert.equal(await ann.locator('#log li.sending, #log li.failed').count(), 0);
await until('everyone is back', async () => (await bob.locator('#people li').count()) === 3);
await shot(bob, 'dark');

assert.deepEqual(problems, []);
await browser.close();
console.log('chat: all done');
