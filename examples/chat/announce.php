#!/usr/bin/env php
<?php
// Posts a system message into a room: php announce.php general "Maintenance at noon"
// STOMP=tcp://127.0.0.1:61613, STOMP_USER and STOMP_PASSWORD say where and as whom.

require __DIR__ . '/broker.php';

if ($argc !== 3 || !preg_match('/^[a-z0-9-]{1,24}$/', $argv[1])) {
    fwrite(STDERR, "usage: announce.php ROOM TEXT\n");
    exit(2);
}
$stomp = new Broker(getenv('STOMP') ?: 'tcp://127.0.0.1:61613', getenv('STOMP_USER') ?: '', getenv('STOMP_PASSWORD') ?: '');
$stomp->send("/topic/chat/rooms/{$argv[1]}", $argv[2], ['content-type' => 'text/plain', 'from' => 'System']);
