// The chat with accounts: who may not do what, and how one logs in.
import assert from 'node:assert/strict';
import { end, launch, online, open, people, php, publish, say, start, texts, until, wide } from './stage.mjs';

const env = process.env;
const as = (user, password) => Object.assign(process.env, { STOMP_USER: user, STOMP_PASSWORD: password });
const said = (program) => program.then((r) => r.stderr + r.stdout, (e) => e.stderr + e.stdout);
const login = ['-u', 'ann', '-P', 'secret of ann'];

try {
  const page = await (await (await launch()).newContext(wide)).newPage();
  await open(page);
  await page.fill('#name', 'Ann');
  await page.keyboard.press('Enter');
  await until('an account is asked for', async () => (await page.locator('#refused').textContent()) === 'This gateway wants an account.');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'user');
  await page.keyboard.type('ann');
  await page.fill('#password', 'wrong');
  await page.keyboard.press('Enter');
  await until('a wrong password is refused', async () => /the password is another/.test(await page.locator('#refused').textContent()));
  await page.fill('#password', 'secret of ann');
  await page.keyboard.press('Enter');
  await online(page);
  assert.ok(!(await page.evaluate(() => JSON.stringify([localStorage, sessionStorage]))).includes('secret'), 'the password is kept nowhere');

  as('house', 'secret of the house');
  const moderator = start('php', `${env.SCRIPTS}/moderate.php`);
  await until('the moderator is there', async () => (await people(page)).includes('moderator'));
  await say(page, 'fine');
  await say(page, 'spam');
  await until('the house removes', async () => (await texts(page)).join() === 'fine,Removed by a moderator');
  await php('system.php', 'general', 'from the house');
  await until('the house speaks', async () => (await texts(page)).at(-1) === 'from the house');

  // Ann can do neither, by no protocol.
  as('ann', 'secret of ann');
  await assert.rejects(php('system.php', 'general', 'forged'));
  for (const topic of ['chat/system/general', 'chat/moderation/general']) {
    await assert.rejects(publish(topic, 'forged'), 'without a login');
    assert.match(await said(publish(topic, 'forged', '-V', '5', ...login)), /not authori[sz]ed/i, topic);
  }
  await publish('chat/rooms/general', 'from her shell', '-V', '5', ...login);
  const refused = await page.evaluate(async () => {
    const { Client } = await import('/client/mqgate.js');
    const client = new Client({ user: 'ann', password: 'secret of ann' });
    const why = async (p) => { try { await p; return 'allowed'; } catch (e) { return e.code; } };
    const all = [await why(client.publish('/topic/chat/moderation/general', { remove: 'x' })), await why(client.publish('/topic/chat/system/general', 'forged')),
      await why(client.publish('/topic/chat/rooms/general', 'from a script'))];
    const consumed = await new Promise((told) => {
      const other = new Client({ user: 'ann', password: 'secret of ann', onerror: (e) => { other.close(); told(e.code); } });
      other.subscribe('/queue/chat.moderation', () => told('allowed'), { onready: () => told('allowed') });
    });
    client.close();
    return [...all, consumed];
  });
  assert.deepEqual(refused, ['denied', 'denied', 'allowed', 'denied']);
  await until('what she may is there', async () => (await texts(page)).join() === 'fine,Removed by a moderator,from the house,from her shell,from a script');

  // A reload asks for the password again, and for nothing else.
  await page.reload();
  await until('the password is asked for', () => page.evaluate(() => document.activeElement.id === 'password'));
  await page.keyboard.type('secret of ann');
  await page.keyboard.press('Enter');
  await online(page);
  await until('the history is there', async () => (await texts(page)).length === 5);
  moderator.kill();
  console.log('accounts: ok');
} finally {
  await end();
}
