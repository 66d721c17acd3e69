// Plays the chat with three browsers at once: two on desks, one of them dark, and a phone.
import assert from 'node:assert/strict';
import { end, phone, problems, visitor, wide } from './stage.mjs';
import { conversation, tabs } from './rooms.mjs';
import { devices, moderation } from './others.mjs';
import { restart, unsent } from './restart.mjs';
import { keyboard, narrow } from './hands.mjs';
import { eyes } from './eyes.mjs';

const evil = '<img src=x onerror=1>';
try {
  const [ann, bob, eve] = await Promise.all([
    visitor('Ann', wide), visitor('Bob', { ...wide, colorScheme: 'dark' }), visitor(evil, phone),
  ]);
  const cast = { ann, bob, eve, evil, all: [ann, bob, eve] };
  for (const scene of [conversation, tabs, devices, moderation, restart, unsent, narrow, keyboard, eyes]) {
    const began = Date.now();
    await scene(cast);
    assert.deepEqual(problems, [], scene.name);
    console.log(`${scene.name}: ok, ${Date.now() - began} ms`);
  }
} finally {
  await end();
}
