<?php
declare(strict_types=1);

// Sends a command to one device: php command.php NAME COMMAND
// It may be away: the gateway keeps the command in the device's session. The receipt
// says that the command is stored.

require __DIR__ . '/connection.php';

$broker = getenv('STOMP_BROKER') ?: 'tcp://127.0.0.1:61613';
[, $device, $command] = $argv;
$stomp = connect_with_backoff($broker, fn () => false);
$sent = $stomp->send("/topic/devices/$device/command", json_encode(['do' => $command], JSON_THROW_ON_ERROR), [
    'persistent' => 'true',          // MQTT's QoS 1: else it is for connected devices only
    'content-type' => 'application/json',
    'receipt' => 'command',
]);
if (!$sent) {
    fwrite(STDERR, 'not stored: ' . $stomp->error() . "\n");
    exit(1);
}
say("command $command for $device is stored");
