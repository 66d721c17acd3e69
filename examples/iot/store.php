<?php
declare(strict_types=1);

// Stores telemetry: php store.php FILE
//
//   - It consumes the queue "telemetry", which x-bind-topic feeds from the topics of all
//     devices: reports wait there while no worker runs, and several workers share them.
//   - A report is appended to FILE, a line of JSON each, before its ACK. When this
//     process or the gateway dies in between, the report comes again, and is in FILE
//     twice: device and n say which it is.
//   - What cannot be read is a dead letter at once (NACK).
//   - SIGTERM and SIGINT let it finish the report that it has.

require __DIR__ . '/connection.php';

$broker = getenv('STOMP_BROKER') ?: 'tcp://127.0.0.1:61613';
$file = $argv[1] ?? 'telemetry.jsonl';
$stopping = false;
if (function_exists('pcntl_async_signals')) {
    pcntl_async_signals(true);
    foreach ([SIGTERM, SIGINT] as $signal) {
        pcntl_signal($signal, function () use (&$stopping) { $stopping = true; });
    }
}
$stop = function () use (&$stopping): bool { return $stopping; };

while (!$stop() && ($stomp = connect_with_backoff($broker, $stop)) !== null) {
    try {
        $stomp->subscribe('/queue/telemetry', [
            'ack' => 'client-individual',
            'x-bind-topic' => '/topic/devices.*.telemetry',
            'receipt' => 'subscribed',
        ]);
        say('store: waiting for telemetry');
        work($stomp, $stop, $file);
    } catch (StompException $e) {
        say('store: connection lost: ' . $e->getMessage());
    }
    unset($stomp);   // disconnects
}
say('store: stopped');

/** Stores reports until it is to stop; throws StompException when the connection is gone. */
function work(Stomp $stomp, callable $stop, string $file): void
{
    while (!$stop()) {
        $stomp->setReadTimeout(1);          // how soon a signal is noticed
        $frame = $stomp->readFrame();
        $stomp->setReadTimeout(10);         // how long a receipt may take
        if ($frame === false) {
            if ($stomp->error()) {
                throw new StompException($stomp->error());
            }
            continue;
        }
        $report = json_decode($frame->body, true);
        if (!is_array($report) || !isset($report['device'])) {
            $stomp->nack($frame, ['x-error' => 'not a report']);
            say('store: a report that nobody can read: to the dead letters');
            continue;
        }
        $report['topic'] = $frame->headers['original-destination'] ?? '';
        if (file_put_contents($file, json_encode($report) . "\n", FILE_APPEND | LOCK_EX) === false) {
            throw new RuntimeException("cannot write $file");
        }
        if (!$stomp->ack($frame, ['receipt' => 'ack-' . hrtime(true)])) {
            throw new StompException('ACK not confirmed: ' . $stomp->error());
        }
    }
}
