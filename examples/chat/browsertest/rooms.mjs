// People among themselves: messages, names, typing, rooms, tabs.
import assert from 'node:assert/strict';
import { count, enter, everyone, notes, online, open, people, problems, say, shot, texts, until } from './stage.mjs';

export async function conversation({ ann, bob, eve, evil, all }) {
  await until('everyone sees three people', () => everyone(all, async (p) => (await people(p)).length === 3));
  assert.deepEqual((await people(ann)).sort(), [evil, 'Ann', 'Bob']);
  assert.match(await ann.locator('#people').textContent(), /Ann\(you\)/);

  await say(ann, 'Good morning! Who looks after the press today?');
  await until('the first has arrived', () => everyone(all, async (p) => (await texts(p)).length === 1));
  await bob.fill('#text', '');
  await bob.locator('#text').pressSequentially('Me.');
  await until('Ann and the phone see Bob typing', () => everyone([ann, eve], async (p) => /^Bob is typing/.test(await p.locator('#typing').textContent())));
  await bob.locator('#text').press('Shift+Enter');
  await bob.locator('#text').pressSequentially('Two lines & <b>no markup</b>');
  await bob.locator('#text').press('Enter');
  await until('a message ends the typing', async () => (await texts(ann)).length === 2 && (await ann.locator('#typing').textContent()) === '');

  // Whatever users write and call themselves stays text.
  const attacks = ['<script>document.title="owned"</script>', '<img src=x onerror="document.title=1">', 'javascript:alert(1) https://example.org/a?b=<i>&c', '"><svg onload=alert(1)>'];
  for (const a of attacks) await say(eve, a);
  await until('all have arrived', () => everyone(all, async (p) => (await texts(p)).length === 6));
  const want = ['Good morning! Who looks after the press today?', 'Me.\nTwo lines & <b>no markup</b>', ...attacks];
  for (const page of all) {
    assert.deepEqual(await texts(page), want);
    assert.equal(await page.locator('#log img, #log svg, #log b, #log script, #log i, #people img').count(), 0);
    assert.equal(await page.locator('#log a').count(), 1);
    assert.equal(await page.locator('#log a').getAttribute('href'), 'https://example.org/a?b=');
    assert.equal(await page.locator('#log a').getAttribute('rel'), 'noopener noreferrer nofollow');
    assert.match(await page.title(), /#general · Chat$/);
  }
  assert.equal(await ann.locator('#log .theirs .name').last().textContent(), evil);
  // The page itself could not do it: assigning HTML throws.
  assert.match(await ann.evaluate(() => { try { document.body.innerHTML = '<b>x</b>'; return 'done'; } catch (e) { return e.name; } }), /TypeError/);
  await until('the browser tells it', async () => problems.some((p) => p.includes('TrustedHTML')));
  problems.splice(problems.findIndex((p) => p.includes('TrustedHTML')), 1);

  // A reload keeps who I am, and brings the history.
  await bob.reload();
  await online(bob);
  await until('Bob has the history', async () => JSON.stringify(await texts(bob)) === JSON.stringify(want));
  assert.equal(await bob.locator('#log .mine').count(), 1);
  await until('Bob is back', async () => (await people(ann)).length === 3);
}

export async function tabs({ ann, bob, all }) {
  // Someone joins, and leaves.
  const guest = await open(await (await bob.context().browser().newContext()).newPage());
  await guest.fill('#name', 'Guest');
  await guest.keyboard.press('Enter');
  await until('Guest joined', async () => (await notes(ann)).some((n) => n.includes('Guest joined')) && (await people(ann)).includes('Guest'));
  await guest.locator('#leave').click();
  assert.ok(await guest.locator('#welcome').isVisible());
  await until('Guest is gone', async () => !(await people(ann)).includes('Guest'));
  await guest.context().close(); // that Guest left is told later, when no reload can be the reason

  // A second tab is the same person, also for who reads what was read.
  const tab = await enter(await ann.context().newPage(), 'Ann');
  await until('Ann has two connections', async () => /Ann.*×2/.test(await bob.locator('#people').textContent()));
  assert.equal((await people(bob)).length, 3);
  await say(tab, 'from my other tab');
  await until('it has arrived', () => everyone(all, async (p) => (await count(p, 'from my other tab')) === 1));
  assert.equal(await ann.locator('#log .mine .what').last().textContent(), 'from my other tab');

  // Rooms, and what is unread in those that are not shown; the tabs agree on it.
  await ann.locator('#text').press('Alt+ArrowDown');
  assert.equal(await ann.locator('#title').textContent(), '#random');
  await tab.locator('#text').press('Alt+ArrowDown');
  await say(bob, 'unread one');
  await say(bob, 'unread two');
  for (const page of [ann, tab]) {
    await until('two are unread', async () => (await page.locator('.room .badge:visible').allTextContents()).join() === '2');
    assert.match(await page.title(), /^\(2\) #random/);
  }
  await tab.locator('#rooms .room').first().click();
  await until('what is new is marked', async () => (await tab.locator('#log .msg:has(.line.new) .what').allTextContents()).join() === 'unread one');
  await until('read in one tab is read in the other', async () => (await ann.locator('.room .badge:visible').count()) === 0);
  await tab.close();
  await until('the tab has left', async () => !/×/.test(await bob.locator('#people').textContent()));
  assert.ok(!(await notes(bob)).some((n) => /Ann/.test(n)), 'a tab of one who stays is no news');

  // What came while the page was closed is unread when it is opened.
  await ann.goto('about:blank');
  await say(bob, 'while Ann was away');
  await until('it is stored', async () => (await bob.locator('#log .sending').count()) === 0);
  await ann.goto(`${process.env.GATEWAY}/chat/#random`);
  await online(ann);
  await until('one is unread', async () => (await ann.locator('.room .badge:visible').allTextContents()).join() === '1');
  await ann.locator('#text').press('Alt+ArrowUp');
  await until('Ann reads it', async () => (await count(ann, 'while Ann was away')) === 1 && (await ann.locator('.badge:visible').count()) === 0);

  await until('Guest left', async () => (await notes(bob)).some((n) => n.includes('Guest left')));
  await shot(ann, 'wide-light');
  await shot(bob, 'wide-dark');
}
