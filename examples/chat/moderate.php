#!/usr/bin/env php
<?php
// Takes reports from the moderation queue, and removes what breaks the rules. Run as many as you like: they share the
// queue, and a report whose worker dies goes to the next one.
// STOMP=tcp://127.0.0.1:61613, STOMP_USER and STOMP_PASSWORD say where and as whom; BANNED is a list of words.

require __DIR__ . '/broker.php';

$banned = preg_split('/\s*,\s*/', getenv('BANNED') ?: 'spam,scam', -1, PREG_SPLIT_NO_EMPTY);
$address = getenv('STOMP') ?: 'tcp://127.0.0.1:61613';
$login = [getenv('STOMP_USER') ?: '', getenv('STOMP_PASSWORD') ?: ''];
$reports = new Broker($address, ...$login);
$answers = new Broker($address, ...$login); // its receipts do not mix with the reports
$reports->request('SUBSCRIBE', ['id' => '1', 'destination' => '/queue/chat.moderation', 'ack' => 'client-individual', 'activemq.prefetchSize' => '1']);

while (true) {
    [$command, $headers, $body] = $reports->read();
    if ($command === 'ERROR') {
        throw new RuntimeException($headers['message'] ?? 'error');
    }
    if ($command !== 'MESSAGE') {
        continue;
    }
    $report = json_decode($body, true);
    $room = $report['room'] ?? '';
    if (is_string($room) && preg_match('/^[a-z0-9-]{1,24}$/', $room) && is_string($report['id'] ?? null) && is_string($report['text'] ?? null)) {
        foreach ($banned as $word) {
            if (stripos($report['text'], $word) !== false) {
                $answers->send("/topic/chat/moderation/$room", json_encode(['remove' => $report['id']]), ['content-type' => 'application/json']);
                echo "removed a message in $room\n";
                break;
            }
        }
    }
    $reports->ack($headers); // last: until here another worker would take over
}
