// What is seen where there is little, much, or something unusual to see, and what axe says of it in light and in dark.
import assert from 'node:assert/strict';
import { barriers, enter, online, open, phone, publish, say, shot, texts, until, wide } from './stage.mjs';

const both = ['dark', 'light'];

export async function eyes({ bob }) {
  for (const options of [wide, { ...phone, viewport: { width: 390, height: 844 } }]) {
    const context = await bob.context().browser().newContext(options);
    const page = await open(await context.newPage());
    await look(page, 'welcome', both);
    await page.goto('about:blank');
    const room = `quiet-${options.viewport.width}`;
    await enter(page, 'Iris');
    await empty(page, room);
    await scripts(page, room);
    await far(page, room);
    await offline(page, context);
    if (options !== wide) {
      await page.locator('#menu').click();
      await look(page, 'drawer');
    }
    await context.close();
  }
}

/** Nothing keeps anybody out: on a desk in light, on a phone in dark, or both. */
async function look(page, what, schemes = [page.viewportSize().width > 720 ? 'light' : 'dark']) {
  for (const colorScheme of schemes) {
    await page.emulateMedia({ colorScheme });
    assert.deepEqual(await barriers(page), [], `${what}, ${colorScheme}`);
    await shot(page, `${what}-${page.viewportSize().width}-${colorScheme}`);
  }
}

async function empty(page, room) {
  await page.evaluate((name) => { location.hash = name; }, room);
  await until('an empty room says what to do', () => page.locator('#empty').isVisible());
  const hint = await page.locator('#hint').textContent();
  assert.equal(hint, `mosquitto_pub -t chat/rooms/${room} -m hi`);
  await look(page, 'empty');
  await publish(...hint.match(/-t (\S+) -m (\S+)/).slice(1));
  await until('it does what it says', async () => (await texts(page)).join() === 'hi');
  assert.equal(await page.locator('#empty').isVisible(), false);
}

async function scripts(page, room) {
  const told = (from, text) => publish(`chat/rooms/${room}`, JSON.stringify({ from, text }));
  await told('👩‍👩‍👧‍👦 family', '🎉');
  await told('דנה', 'שלום.');
  await told('Ann\u202E', 'not turned around');
  await told('Wolfeschlegelsteinhausenbergerdorff-the-Third', 'A long name. '.repeat(9));
  await until('they have arrived', async () => (await texts(page)).length === 5);
  assert.deepEqual(await page.locator('#log .avatar').allTextContents(), ['U', '👩‍👩‍👧‍👦', 'ד', 'A', 'W']);
  assert.equal(await page.locator('#log .name').nth(3).textContent(), 'Ann');
  const sides = await page.locator('#log .what').evaluateAll((all) => all.map((e) => {
    const range = document.createRange();
    range.selectNodeContents(e);
    const [text, box] = [range.getClientRects()[0], e.getBoundingClientRect()];
    return box.right - text.right < text.left - box.left ? 'right' : 'left';
  }));
  assert.equal(sides[2], 'right', 'Hebrew begins on the right');
  assert.equal(sides[3], 'left');
  await page.fill('#text', 'مرحبا');
  assert.equal(await page.locator('#text').evaluate((e) => getComputedStyle(e).direction), 'rtl');
  await page.locator('#text').press('Enter');
  await until('it is sent', async () => (await page.locator('#log .sending').count()) === 0 && (await texts(page)).length === 6);
  await look(page, 'scripts', both);
}

/** Far from the end there is a way back. */
async function far(page, room) {
  await page.evaluate((name) => Promise.all(Array.from({ length: 34 }, (_, i) => fetch(`/api/publish/topic/chat/rooms/${name}`, { method: 'POST', body: `${i}: words that fill a line` }))), room);
  await until('all are there', async () => (await texts(page)).length === 40);
  assert.equal(await page.locator('#jump').isVisible(), false);
  await page.locator('#log').evaluate((e) => { e.scrollTop = 0; });
  await until('a way back is offered', async () => (await page.locator('#jump').isVisible()) && (await page.locator('#jump').textContent()) === '↓ To the newest');
  await publish(`chat/rooms/${room}`, 'news');
  await until('it says that there is something', async () => (await page.locator('#jump').textContent()) === '↓ 1 new message');
  await shot(page, `far-${page.viewportSize().width}`);
  await page.locator('#jump').click();
  await until('it leads there', () => page.locator('#log').evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight < 2 && document.activeElement === e.lastElementChild));
  assert.equal(await page.locator('#jump').isVisible(), false);
}

async function offline(page, context) {
  await context.setOffline(true);
  await until('it says so', async () => (await page.locator('#status').textContent()) === 'Offline');
  assert.equal(await page.locator('#people li').count(), 0);
  assert.match(await page.locator('#people').evaluate((e) => getComputedStyle(e, '::before').content), /Not known/);
  await say(page, 'for later');
  await until('it waits', async () => /1 message waits/.test(await page.locator('#banner-text').textContent()));
  await look(page, 'offline');
  await context.setOffline(false);
  await online(page);
  await until('it is sent', async () => (await page.locator('#log .sending').count()) === 0 && (await page.locator('#people li').count()) === 1);
}
