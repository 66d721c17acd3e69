// A narrow screen, and hands that have a keyboard only.
import assert from 'node:assert/strict';
import { count, everyone, online, open, say, shot, texts, until, wide } from './stage.mjs';

export async function narrow({ ann, eve, all }) {
  const long = 'W'.repeat(300);
  await say(ann, long);
  await say(eve, `${long} ${long}`);
  await say(ann, `https://example.org/${'path/'.repeat(60)}`);
  await until('they have arrived', () => everyone(all, async (p) => /^https/.test((await texts(p)).at(-1))));
  const overflow = () => eve.evaluate(() => [...document.querySelectorAll('body *')].filter((e) => {
    const r = e.getBoundingClientRect();
    return r.width > 0 && r.left >= 0 && r.right > innerWidth + 0.5 && !e.closest('.hidden') && !e.closest('aside:not(.open)');
  }).map((e) => `${e.tagName}#${e.id}.${e.className}`));
  const sideways = () => eve.evaluate(() => [document.documentElement, document.getElementById('log')].some((e) => e.scrollWidth > e.clientWidth));
  assert.equal(await eve.evaluate(() => innerWidth), 360);
  assert.deepEqual(await overflow(), []);
  assert.equal(await sideways(), false);
  await shot(eve, 'phone-light');

  // The drawer with rooms and people: its own place for the keyboard while it is open.
  await eve.locator('#menu').click();
  await until('the drawer is open', () => eve.evaluate(() => document.getElementById('side').getBoundingClientRect().left === 0));
  assert.equal(await eve.evaluate(() => document.getElementById('main').inert), true);
  assert.equal(await eve.evaluate(() => document.activeElement.closest('#side') !== null), true);
  assert.deepEqual(await overflow(), []);
  await shot(eve, 'phone-drawer');
  await eve.keyboard.press('Escape');
  assert.equal(await eve.evaluate(() => document.activeElement.id), 'menu');
  assert.equal(await eve.locator('#menu').getAttribute('aria-expanded'), 'false');
  await eve.locator('#menu').click();
  await eve.locator('#rooms .room', { hasText: 'random' }).click();
  await until('the other room is shown', async () => (await eve.locator('#title').textContent()) === '#random' && !(await eve.locator('#shade').isVisible()));
  await eve.emulateMedia({ colorScheme: 'dark' });
  await eve.locator('#menu').click();
  await eve.locator('#rooms .room', { hasText: 'general' }).click();
  await until('general is back, behind no drawer', async () => (await texts(eve)).length > 5 && !(await eve.locator('#side').isVisible()));
  await shot(eve, 'phone-dark');
}

const focused = (page) => page.evaluate(() => {
  const e = document.activeElement;
  const style = getComputedStyle(e);
  return { at: e.id || e.className.split(' ')[0] || e.tagName, name: e.getAttribute('aria-label') || e.textContent, ring: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 };
});

export async function keyboard({ ann, bob }) {
  const context = await bob.context().browser().newContext(wide);
  const page = await open(await context.newPage());
  const press = async (...keys) => { for (const k of keys) await page.keyboard.press(k); return focused(page); };
  await page.keyboard.type('Kay'); // the name has the focus
  await press('Enter');
  await online(page);
  await until('the history is there', async () => (await texts(page)).length > 5);
  assert.equal((await focused(page)).at, 'text');

  await page.keyboard.type('two');
  await press('Shift+Enter');
  await page.keyboard.type('lines');
  await press('Enter');
  await until('it is sent', async () => (await count(ann, 'two\nlines')) === 1);
  assert.equal(await page.inputValue('#text'), '');

  // One round with Tab: each stop can be seen, and the messages are one of them, the newest first.
  const stops = [];
  for (let i = 0; i < 30; i++) {
    const f = await press('Tab');
    if (f.at === 'BODY' || f.at === 'HTML') continue; // the browser's own bar
    assert.ok(f.ring, `the focus is seen on ${f.at}`);
    if (f.at === 'msg') assert.match(f.name, /: two\nlines$/);
    stops.push(f.at);
    if (f.at === 'text') break;
  }
  // The message may be one that can be reported: which it is depends on what came first.
  assert.deepEqual(stops.filter((s, i) => s !== stops[i - 1] && s !== 'report'), ['send', 'room', 'roomname', 'icon', 'leave', 'msg', 'text']);

  // Message by message, to one of somebody else, and its button.
  await say(bob, 'for the keyboard');
  await until('it is there', async () => (await count(page, 'for the keyboard')) === 1);
  await page.locator('#text').focus();
  let f = await press('ArrowUp');
  assert.match(f.name, /^Bob, .*: for the keyboard$/);
  assert.match((await press('ArrowUp')).name, /^Kay, .*: two\nlines$/);
  assert.match((await press('Home')).name, /: Good morning! /);
  f = await press('End', 'Tab');
  assert.deepEqual([f.at, f.ring, f.name], ['report', true, 'Report this message of Bob']);
  await press('Enter');
  await until('it is reported', async () => /Reported/.test(await page.locator('#toast').textContent()));
  assert.equal((await press('Escape')).at, 'text');

  // Rooms.
  await press('Alt+ArrowDown');
  assert.equal(await page.locator('#title').textContent(), '#random');
  await press('Alt+ArrowUp');
  await press('Shift+Tab', 'Shift+Tab', 'Shift+Tab', 'Shift+Tab');
  assert.equal((await focused(page)).at, 'roomname');
  await page.keyboard.type('Night-Shift');
  await press('Enter');
  assert.equal(await page.locator('#title').textContent(), '#night-shift');
  assert.equal((await focused(page)).at, 'text');
  await page.keyboard.type('hello night');
  await press('Enter');
  await until('it is in its room', async () => (await count(page, 'hello night')) === 1);

  // What a screen reader is told.
  const log = await page.locator('#log').ariaSnapshot();
  assert.match(log, /log "#night-shift"/);
  assert.match(log, /article "Kay, .*: hello night"/);
  assert.equal(await page.locator('#log').getAttribute('aria-live'), 'polite');
  assert.match(await page.locator('#rooms').ariaSnapshot(), /navigation "Rooms"/);
  await page.reload();
  await online(page);
  await until('the room is still joined, with its history', async () => (await count(page, 'hello night')) === 1);
  await context.close();
}
