#!/usr/bin/env php
<?php
// Posts a system message into a room: php system.php general "Maintenance at noon"
// It goes to a topic of its own, so that where there are accounts only the house can speak as the system.

require __DIR__ . '/broker.php';

if ($argc !== 3 || !preg_match(ROOM, $argv[1]) || trim($argv[2]) === '') {
    fwrite(STDERR, "usage: system.php ROOM TEXT\n");
    exit(2);
}
Broker::fromEnvironment()->send("/topic/chat/system/{$argv[1]}", $argv[2], ['content-type' => 'text/plain; charset=utf-8']);
