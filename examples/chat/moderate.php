#!/usr/bin/env php
<?php
// The moderator. It reads all rooms, puts what looks suspicious into the moderation queue, and decides on what is in the
// queue: reports of its own and of people. What breaks the rules is removed: {"remove": ID} goes to the room's moderation
// topic, and every page takes the message away.
//
// A report names a message and nothing more, for its sender could write anything: the text that is judged comes from the
// room. So the moderator has to know the last messages also after it was restarted: it has a durable subscription, and
// acknowledges a message only when enough newer ones have come. What it does not acknowledge, it gets again.
//
// BANNED is a list of words; MODERATOR is the client id, one for each moderator that runs.

require __DIR__ . '/broker.php';

const REMEMBERED = 500;

$name = getenv('MODERATOR') ?: 'moderator';
$banned = preg_split('/\s*,\s*/', getenv('BANNED') ?: 'spam,scam', -1, PREG_SPLIT_NO_EMPTY);
$broker = Broker::fromEnvironment($name);
$broker->subscribe('rooms', '/topic/chat/rooms/*', ['activemq.subscriptionName' => 'rooms', 'activemq.prefetchSize' => (string) (REMEMBERED + 100)]);
$broker->subscribe('reports', '/queue/chat.moderation', ['activemq.prefetchSize' => '10']);
echo "$name is here\n";

/** @var array<string, array{room: string, from: string, text: string, headers: array}> $known by message id, oldest first */
$known = [];
while (true) {
    [$headers, $body] = $broker->message();
    if ($headers['subscription'] === 'reports') {
        decide($broker, $known, $banned, $headers, $body);
        continue;
    }
    $room = basename(str_replace('.', '/', $headers['destination']));
    if (!preg_match(ROOM, $room)) {
        $broker->ack($headers); // not a room of the page
        continue;
    }
    $id = $headers['message-id'];
    $said = json_decode($body, true);
    $known[$id] = [
        'room' => $room,
        'from' => is_string($said['from'] ?? null) ? $said['from'] : '',
        'text' => is_string($said['text'] ?? null) ? $said['text'] : $body,
        'headers' => $headers,
    ];
    if (objection($known, $id, $banned) !== null) {
        report($broker, $room, $id, $name);
    }
    if (count($known) > REMEMBERED) {
        $oldest = array_key_first($known);
        $broker->ack($known[$oldest]['headers']);
        unset($known[$oldest]);
    }
}

function report(Broker $broker, string $room, string $id, string $by): void
{
    $report = json_encode(['room' => $room, 'id' => $id, 'by' => $by]);
    $broker->send('/queue/chat.moderation', $report, ['content-type' => 'application/json', 'x-dedup-id' => "report-$id"]);
}

function decide(Broker $broker, array $known, array $banned, array $headers, string $body): void
{
    $report = json_decode($body, true);
    $id = is_string($report['id'] ?? null) ? $report['id'] : '';
    if ($id === '') {
        $broker->ack($headers); // it names nothing
        return;
    }
    if (!isset($known[$id])) {
        // It may have come before its message. If the message never comes, a person finds the report in DLQ.chat.moderation.
        $broker->later($headers, 500, "no message $id is known");
        return;
    }
    $why = objection($known, $id, $banned);
    $room = $known[$id]['room'];
    if ($why !== null) {
        // The dedup id: two reports, or one that is delivered twice, remove once.
        $broker->send("/topic/chat/moderation/$room", json_encode(['remove' => $id, 'why' => $why]), ['content-type' => 'application/json', 'x-dedup-id' => "remove-$id"]);
    }
    echo $why === null ? 'kept' : 'removed', " $id in $room", $why === null ? '' : ": $why", "\n";
    $broker->ack($headers); // last: until here another moderator would take over
}

/** Why a message should not stay; null if it may. */
function objection(array $known, string $id, array $banned): ?string
{
    ['from' => $from, 'text' => $text, 'room' => $room] = $known[$id];
    foreach ($banned as $word) {
        if (preg_match('/(?<![\p{L}\p{N}])' . preg_quote($word, '/') . '(?![\p{L}\p{N}])/iu', $text)) {
            return 'banned word';
        }
    }
    if (preg_match_all('~https?://~i', $text) > 3) {
        return 'too many links';
    }
    $before = 0;
    foreach ($known as $other => $m) {
        if ($other === $id) {
            break;
        }
        $before += $m['from'] === $from && $m['text'] === $text && $m['room'] === $room ? 1 : 0;
    }
    return $before >= 3 ? 'said again and again' : null;
}
